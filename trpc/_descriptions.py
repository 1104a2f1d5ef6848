"""What a server says of its services, as plain data: what :class:`trpc.Reflection` gives, from method tables."""

from __future__ import annotations

import copy
import inspect
import re
from typing import TYPE_CHECKING, Any, Final, Literal, NotRequired, TypedDict

from ._signature import stream_hint
from ._type_texts import TypeInfo, TypeTexts, doc_of, short, shown_doc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._service import BoundMethod, Method


class ParameterInfo(TypedDict):
    """A parameter of a method.

    Attributes:
        name: its name.
        kind: how an argument is given: ``"positional"`` (by position only), ``"any"`` (by position or name),
            ``"keyword"`` (by name only), ``"*"`` (any number of them by position), ``"**"`` (and by name).
        type: a Python expression, such as ``"list[int] | None"``; ``"Any"`` if there is no hint. It is made of builtin types,
            ``Any``, ``Literal``, ``AsyncIterable`` and ``AsyncIterator``, ``datetime.…``, ``uuid.UUID``, ``decimal.Decimal``
            and names of the service's ``types``.
        is_stream: whether it is a stream of items from the caller.
        default: what it is if it is left out, as Python source, or ``"..."`` if that is long; absent if it cannot be left out.
    """

    name: str
    kind: Literal["positional", "any", "keyword", "*", "**"]
    type: str
    is_stream: bool
    default: NotRequired[str]


class MethodInfo(TypedDict):
    """A method that can be called.

    Attributes:
        name: its name in the service.
        doc: its docstring, or nothing.
        parameters: what it takes.
        returns: the type of its result, as in :class:`ParameterInfo`; of a stream ``"AsyncIterator[…]"``.
        is_stream: whether its result is a stream.
        in_thread: whether it runs in a worker thread.
        idempotent: whether running it twice does no harm.
        deprecated: what ``@deprecated`` says, put above ``@trpc.method`` (PEP 702); else None.
    """

    name: str
    doc: str
    parameters: list[ParameterInfo]
    returns: str
    is_stream: bool
    in_thread: bool
    idempotent: bool
    deprecated: str | None


class ServiceInfo(TypedDict):
    """A service.

    Attributes:
        name: what it is called on the wire.
        doc: the docstring of its class, or nothing.
        methods: those that the caller may call.
        types: the classes that these refer to, by names that are unique within the service.
    """

    name: str
    doc: str
    methods: list[MethodInfo]
    types: list[TypeInfo]


_NAME: Final = re.compile(r"[^\W\d]\w*")
_Kind = Literal["positional", "any", "keyword", "*", "**"]
_KINDS: Final[Mapping[Any, _Kind]] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "any",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def describe(table: Mapping[str, BoundMethod]) -> list[ServiceInfo]:
    """The services of a method table, in its order."""
    services: dict[str, list[BoundMethod]] = {}
    for wire_name, bound in table.items():
        services.setdefault(wire_name.rpartition(".")[0], []).append(bound)
    return [_describe_service(name, methods) for name, methods in services.items()]


def _describe_service(name: str, methods: Sequence[BoundMethod]) -> ServiceInfo:
    # The service's own name is taken, so that a program can have all of them side by side.
    texts = TypeTexts(taken={name})
    described = [_describe_method(bound.method, texts) for bound in methods]
    return {
        "name": name,
        "doc": _doc_of_service(methods[0].method.cls),
        "methods": described,
        "types": texts.classes,
    }


def filtered(services: Sequence[ServiceInfo], allows: Callable[[str], bool]) -> list[ServiceInfo]:
    """Copies of these, with the methods that somebody may call and the classes that these refer to.

    Args:
        services: those of :func:`describe`.
        allows: says of a method's name on the wire whether it may be called.
    """
    found: list[ServiceInfo] = []
    for service in services:
        methods = [method for method in service["methods"] if allows(f"{service['name']}.{method['name']}")]
        if methods:
            types = _types_of(methods, service["types"])
            # What is kept is not handed out: interceptors may change what they get.
            part: ServiceInfo = {"name": service["name"], "doc": service["doc"], "methods": methods, "types": types}
            found.append(copy.deepcopy(part))
    return found


def _types_of(methods: Sequence[MethodInfo], types: Sequence[TypeInfo]) -> list[TypeInfo]:
    """The classes that these methods refer to, directly or not, in their order."""
    texts = [text for method in methods for text in (method["returns"], *(p["type"] for p in method["parameters"]))]
    by_name = {info["name"]: info for info in types}
    used: set[str] = set()
    while texts:
        for name in _NAME.findall(texts.pop()):
            if name in by_name and name not in used:
                used.add(name)
                texts += [field["type"] for field in by_name[name]["fields"]]
    return [info for info in types if info["name"] in used]


def _describe_method(method: Method, texts: TypeTexts) -> MethodInfo:
    signature = method.signature
    returns = texts.text_of(signature.returns)
    return {
        "name": method.name,
        "doc": _doc_of_method(method),
        "parameters": [
            _describe_parameter(parameter, signature.written.get(parameter.name, Any), texts)
            for parameter in signature.parameters
        ],
        "returns": f"AsyncIterator[{returns}]" if method.is_stream else returns,
        "is_stream": method.is_stream,
        "in_thread": method.in_thread,
        "idempotent": method.idempotent,
        "deprecated": _deprecation(method),
    }


def _describe_parameter(parameter: inspect.Parameter, hint: Any, texts: TypeTexts) -> ParameterInfo:
    stream = stream_hint(hint)
    if stream is None:
        text = texts.text_of(hint)
    else:
        item, is_optional = stream
        text = f"AsyncIterable[{texts.text_of(item)}]{' | None' if is_optional else ''}"
    info: ParameterInfo = {
        "name": parameter.name,
        "kind": _KINDS[parameter.kind],
        "type": text,
        "is_stream": stream is not None,
    }
    if parameter.default is not parameter.empty:
        info["default"] = short(parameter.default)
    return info


def _doc_of_service(cls: type[Any]) -> str:
    """Its own docstring, or that of what it implements."""
    docs = [doc_of(base) for base in cls.__mro__ if base.__module__ not in {"abc", "builtins", "typing"}]
    return next(filter(None, docs), "")


def _doc_of_method(method: Method) -> str:
    """Its own docstring, or that of what it overrides."""
    attributes = [vars(base)[method.name] for base in method.cls.__mro__ if method.name in vars(base)]
    docs = [shown_doc(getattr(attribute, "__doc__", None)) for attribute in attributes]
    return next(filter(None, docs), "")


def _deprecation(method: Method) -> str | None:
    message: object = getattr(inspect.getattr_static(method.cls, method.name), "__deprecated__", None)
    return shown_doc(message) if isinstance(message, str) else None
