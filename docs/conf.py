"""How the documentation is built: ``python -m sphinx -W -b html docs docs/_build/html``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from pygments.lexer import RegexLexer
from pygments.token import Comment, Number, Text
from sphinx.pycode import ModuleAnalyzer

import trpc

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "trpc"
copyright = "the authors of trpc"  # noqa: A001 - the name is Sphinx's
version = release = trpc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio"]
exclude_patterns = ["_build", "migration"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_title = f"trpc {release}"
# Pages are the same wherever they are built; the sources are in the repository anyway.
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# Headings down to this level can be linked to as page.md#heading.
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# As they are written: 0o600, 16 * MiB.
autodoc_preserve_defaults = True
# What sphinxcontrib-trio builds upon, since Sphinx 9.
autodoc_use_legacy_class_based = True
napoleon_numpy_docstring = False
# A list, instead of an entry with a heading for each attribute.
napoleon_use_ivar = True
# Short names, as users write them.
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

# A reference that leads nowhere is an error.
nitpicky = True
nitpick_ignore = [
    # Type variables: they have no place where they are explained.
    ("py:class", "trpc._exceptions.E"),
    ("py:class", "trpc._service.C"),
    # What CurrentCall.owner is, which is of no use to users.
    ("py:class", "CallOwner"),
]

PYTHON = "https://docs.python.org/3/library/"
TRIO = "https://trio.readthedocs.io/en/stable/reference-"
# Where the names of others are explained, as signatures and docstrings write them. Not by intersphinx: a build fetches nothing.
ELSEWHERE = {
    "AbstractAsyncContextManager": f"{PYTHON}contextlib.html#contextlib.AbstractAsyncContextManager",
    "ReceiveChannel": f"{TRIO}io.html#trio.abc.ReceiveChannel",
    "collections.abc.Awaitable": f"{PYTHON}collections.abc.html#collections.abc.Awaitable",
    "collections.abc.Callable": f"{PYTHON}collections.abc.html#collections.abc.Callable",
    "os.PathLike": f"{PYTHON}os.html#os.PathLike",
    "random.Random": f"{PYTHON}random.html#random.Random",
    "ssl.SSLContext": f"{PYTHON}ssl.html#ssl.SSLContext",
    "trio.Event": f"{TRIO}core.html#trio.Event",
    "trio.TaskStatus": f"{TRIO}core.html#trio.TaskStatus",
    "trio.abc.Listener": f"{TRIO}io.html#trio.abc.Listener",
    "trio.abc.ReceiveChannel": f"{TRIO}io.html#trio.abc.ReceiveChannel",
    "trio.abc.Stream": f"{TRIO}io.html#trio.abc.Stream",
    # They are such streams, and nothing else of them is for users.
    "trpc.testing._memory_stream.MemoryStream": f"{TRIO}io.html#trio.abc.HalfCloseableStream",
    "trpc.testing._memory_stream.PlainMemoryStream": f"{TRIO}io.html#trio.abc.Stream",
}
# Types in signatures that are no names of trpc; reference.md says what they stand for.
ALIASES = {"Authenticate", "Authorize", "CallState", "MetadataValue", "Services", "UntypedProxy"}
# Their signatures begin with "with" or "async with", which says what they give.
CONTEXT_MANAGERS = {
    "trpc.Client.stream",
    "trpc.connect",
    "trpc.connect_stream",
    "trpc.metadata",
    "trpc.testing.MemoryServer.connect",
    "trpc.testing.connected",
    "trpc.testing.serving",
}
# For these the directives in reference.md give the signature, and not the overloads, which are for type checkers.
HAVE_OVERLOADS = ("trpc._client", "trpc._exceptions", "trpc._service")


class HexLexer(RegexLexer):
    """The annotated hex of the wire protocol's page."""

    name = "Annotated hex"
    aliases = ("hex",)
    tokens = {"root": [(r"#.*$", Comment), (r"[0-9a-f]{2}\b", Number.Hex), (r"\s+", Text)]}  # noqa: RUF012


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Where a name leads that is not in the reference."""
    target = node.get("reftarget", "")
    alias = target.rpartition(".")[2]
    if alias in ALIASES:
        assert node.get("refdoc") is not None
        return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", alias, node, content)
    if target in ELSEWHERE:
        return nodes.reference("", "", content, internal=False, refuri=ELSEWHERE[target])
    return None


_attributes: dict[str, list[str]] = {}


def keep(_app: Sphinx, what: str, name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Before napoleon, which takes the text before a colon in an attribute's description for its type."""
    if what in {"attribute", "property"}:
        _attributes[name] = lines.copy()


def restore(_app: Sphinx, _what: str, name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """After it."""
    if name in _attributes:
        lines[:] = _attributes.pop(name)


def shorten(
    _app: Sphinx, _what: str, name: str, _obj: object, _options: object, signature: str, _result: str
) -> tuple[str, None] | None:
    """Leaves away the result of a context manager."""
    return (signature, None) if name in CONTEXT_MANAGERS else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_lexer("hex", HexLexer)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", keep, priority=100)
    app.connect("autodoc-process-docstring", restore, priority=900)
    app.connect("autodoc-process-signature", shorten)
    for name in HAVE_OVERLOADS:
        analyzer = ModuleAnalyzer.for_module(name)
        analyzer.analyze()
        analyzer.overloads.clear()
    return {"parallel_read_safe": True}
