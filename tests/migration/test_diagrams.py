"""The diagrams of the documentation: drawn from their sources, well-formed, used, and described in words."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DIAGRAMS = DOCS / "_static" / "diagrams"
DRAWINGS = sorted(DIAGRAMS.glob("*.svg"))
IMAGE = re.compile(r"!\[(.*?)\]\((.*?)\)", re.DOTALL)


def images():
    """Each image of a page: the page, its alternative text, its file."""
    for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        for alt, target in IMAGE.findall(page.read_text()):
            if "://" not in target:
                yield page, alt, (page.parent / target).resolve()


def test_they_are_drawn_from_their_sources(tmp_path):
    folder = tmp_path / "docs" / "diagrams"
    folder.mkdir(parents=True)
    drawn = tmp_path / "docs" / "_static" / "diagrams"
    drawn.mkdir(parents=True)
    for file in (DOCS / "diagrams").iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    subprocess.run([sys.executable, folder / "draw.py"], check=True, timeout=60)
    assert {file.name: file.read_text() for file in drawn.iterdir()} == {
        file.name: file.read_text() for file in DRAWINGS
    }, "python docs/diagrams/draw.py makes them anew"


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda path: path.stem)
def test_all_is_in_the_picture(drawing):
    root = ET.parse(drawing).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 < float(text.attrib["x"]) < width
        assert 0 < float(text.attrib["y"]) < height


def test_each_is_used():
    used = {file for _, _, file in images()}
    assert set(DRAWINGS) <= used


def test_each_image_is_there_and_described():
    assert len(list(images())) >= len(DRAWINGS)
    for page, alt, file in images():
        assert file.exists(), f"{page.name}: {file}"
        assert len(alt.split()) >= 5, f"{page.name}: {file.name} has no alternative text"
