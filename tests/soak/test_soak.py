"""The soak runs; whether anything grows, ten seconds cannot tell."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from tests.soak import chart, run


def test_no_outcome_is_wrong_and_nothing_is_left(tmp_path):
    soak = run.Run(tmp_path)
    soak.go(8, 0.5)
    assert soak.wrong == []
    assert soak.left == {}
    assert soak.calls > 0
    assert soak.attacks > 0
    lines = (tmp_path / "samples.csv").read_text().splitlines()
    assert lines[0].split(",") == run.COLUMNS
    assert len(lines) == len(soak.rows) + 1


def test_what_grows_is_found():
    flat = [dict.fromkeys(run.FLAT, 100.0) for _ in range(40)]
    assert all(is_flat for _, _, is_flat in run.verdicts(flat).values())
    grown = [dict.fromkeys(run.FLAT, 100.0 + 3 * number) for number in range(40)]
    assert not any(is_flat for _, _, is_flat in run.verdicts(grown).values())


def test_samples_are_drawn():
    root = ET.fromstring(chart.picture("A & B", [1.0, 2.0], {"tasks": [3, 4], "calls": [0, 0]}))
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2
