"""How the documentation is built: ``python -m sphinx -W -b html docs docs/_build/html``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pygments.lexer import RegexLexer
from pygments.token import Comment, Number, Text

import trpc

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "trpc"
copyright = "the authors of trpc"  # noqa: A001 - the name is Sphinx's
version = release = trpc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_static_path = ["_static"]
html_title = f"trpc {release}"
# Pages are the same wherever they are built; the sources are in the repository anyway.
html_copy_source = False

# Headings down to this level can be linked to as page.md#heading.
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
# Short names, as users write them.
python_use_unqualified_type_names = True


class HexLexer(RegexLexer):
    """The annotated hex of the wire protocol's page."""

    name = "Annotated hex"
    aliases = ("hex",)
    tokens = {"root": [(r"#.*$", Comment), (r"[0-9a-f]{2}\b", Number.Hex), (r"\s+", Text)]}  # noqa: RUF012


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_lexer("hex", HexLexer)
    return {"parallel_read_safe": True}
