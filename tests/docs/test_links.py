"""Links out of the documentation. Those between pages are checked when it is built; nothing is fetched here."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import DOCS, ROOT, pages

# Who is linked to. Another one is a decision: will the page be there in some years?
HOSTS = {
    "click.palletsprojects.com",
    "docs.python.org",
    "github.com",
    "grpc.github.io",
    "grpc.io",
    "protobuf.dev",
    "pyro5.readthedocs.io",
    "rich.readthedocs.io",
    "rpyc.readthedocs.io",
    "trio.readthedocs.io",
    "trustme.readthedocs.io",
    "watchfiles.helpmanual.io",
}
_TARGET = re.compile(
    r"\]\((?P<inline>[^()\s]+(?:\([^()\s]*\))?)\)|^\[[^\]]+\]: (?P<below>\S+)$|<(?P<bare>https?://[^>\s]+)>",
    re.MULTILINE,
)
_CODE = re.compile(r"^(`{3,}).*?^\1$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def targets(path):
    text = _CODE.sub("", path.read_text())
    return [match["inline"] or match["below"] or match["bare"] for match in _TARGET.finditer(text)]


def links():
    for path in pages():
        for target in targets(path):
            yield path, target
    configuration = (DOCS / "conf.py").read_text()
    yield from ((DOCS / "conf.py", target) for target in re.findall(r'"(https?://[^"{]+)', configuration))


@pytest.mark.parametrize(
    "page, target", [pytest.param(*link, id=f"{link[0].name}-{link[1]}") for link in links() if ":" in link[1]]
)
def test_links_outwards(page, target):
    parts = urlsplit(target)
    assert parts.scheme == "https"
    assert parts.netloc in HOSTS


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_texts_at_the_root(name):
    """Sphinx does not see these."""
    for target in targets(ROOT / name):
        if ":" not in target and not target.startswith("#"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_links_between_pages_lead_to_pages():
    for page, target in links():
        if ":" not in target and not target.startswith("#") and page.parent == DOCS:
            assert (DOCS / target.partition("#")[0]).exists(), f"{page.name}: {target}"
