"""Which argument on the command line is for which parameter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ._exits import CommandError
from ._text import near

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import MethodInfo, ParameterInfo

# NAME=VALUE or NAME:=JSON. A text such as "a == b" is neither.
_NAMED: Final = re.compile(r"([A-Za-z_][A-Za-z_0-9]*)(:?=)(.*)", re.DOTALL)

# Where there is no reflection, every argument is for this.
UNKNOWN: Final[ParameterInfo] = {"name": "", "kind": "any", "type": "Any", "is_stream": False}


class Given(NamedTuple):
    """An argument as it was written.

    Attributes:
        text: its value.
        is_json: whether it is to be read as JSON, whatever the type.
        parameter: what it is for.
        shown: the parameter's name, in messages.
    """

    text: str
    is_json: bool
    parameter: ParameterInfo
    shown: str


class Bound(NamedTuple):
    """What a call is made with."""

    args: list[Given]
    kwargs: dict[str, Given]


def bind(texts: Sequence[str], method: MethodInfo | None) -> Bound:
    """Puts each text to its parameter.

    Args:
        texts: the arguments, as they were written.
        method: what it takes; None: not known.

    Raises:
        CommandError: there are too many or too few, or one twice.
    """
    by_position: list[str] = []
    by_name: dict[str, tuple[str, bool]] = {}
    for text in texts:
        match = _NAMED.fullmatch(text)
        if match and _takes_name(match[1], method):
            if match[1] in by_name:
                raise CommandError(f"the argument {match[1]!r} is there twice")
            by_name[match[1]] = (match[3], match[2] == ":=")
        elif match and method is not None and match[2] == ":=":
            names = [parameter["name"] for parameter in method["parameters"]]
            raise CommandError(f"there is no parameter {match[1]!r}", hint=near(match[1], names))
        else:
            by_position.append(text)
    if method is None:
        return Bound(
            [Given(text, False, UNKNOWN, str(number)) for number, text in enumerate(by_position, 1)],
            {name: Given(text, is_json, UNKNOWN, name) for name, (text, is_json) in by_name.items()},
        )
    return _bound(by_position, by_name, method["parameters"])


def _takes_name(name: str, method: MethodInfo | None) -> bool:
    if method is None:
        return True
    return any(
        parameter["kind"] == "**" or (parameter["name"] == name and parameter["kind"] in {"any", "keyword"})
        for parameter in method["parameters"]
    )


def _bound(by_position: list[str], by_name: dict[str, tuple[str, bool]], parameters: list[ParameterInfo]) -> Bound:
    positional = [parameter for parameter in parameters if parameter["kind"] in {"positional", "any"}]
    rest = next((parameter for parameter in parameters if parameter["kind"] == "*"), None)
    named = {parameter["name"]: parameter for parameter in parameters if parameter["kind"] in {"any", "keyword"}}
    others = next((parameter for parameter in parameters if parameter["kind"] == "**"), UNKNOWN)
    if len(by_position) > len(positional) and rest is None:
        raise CommandError(
            f"{len(by_position)} arguments are given by position, and there are {len(positional)} parameters for them"
        )
    args: list[Given] = []
    for number, text in enumerate(by_position):
        parameter = positional[number] if number < len(positional) else rest or UNKNOWN
        if parameter["kind"] == "any" and parameter["name"] in by_name:
            raise CommandError(f"the argument {parameter['name']!r} is there twice, by position and by name")
        args.append(Given(text, False, parameter, parameter["name"]))
    kwargs = {name: Given(text, is_json, named.get(name, others), name) for name, (text, is_json) in by_name.items()}
    given = {arg.parameter["name"] for arg in args} | kwargs.keys()
    missing = [
        parameter["name"]
        for parameter in parameters
        if "default" not in parameter and parameter["kind"] not in {"*", "**"} and parameter["name"] not in given
    ]
    if missing:
        raise CommandError(f"there is no argument for {', '.join(map(repr, missing))}")
    return Bound(args, kwargs)
