"""A method's signature as the schema of its arguments and its result."""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    NamedTuple,
    Never,
    NoReturn,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import trio

from . import _codec
from ._errors import InvalidArguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_NO_KEYWORDS: Final[Mapping[str, Any]] = {}
_POSITIONAL: Final = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}

_KEYWORD: Final = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}

# What a hint has to be for a stream from the caller, and for one from the method.
_ARGUMENT_STREAMS: Final = (AsyncIterable, AsyncIterator, trio.abc.ReceiveChannel)
_RESULT_STREAMS: Final = (*_ARGUMENT_STREAMS, AsyncGenerator)


class StreamOf(NamedTuple):
    """What a stream has in it.

    Attributes:
        convert: makes of a plain item what its hint says; None if that is anything.
        convert_all: the same of a list of them, in one call into C.
        has_typed_keys: whether an item is a dictionary whose keys travel as text.
        is_optional: whether None may take its place.
    """

    convert: Callable[[Any], Any] | None
    convert_all: Callable[[Any], Any] | None
    has_typed_keys: bool
    is_optional: bool


class Signature:
    """What a method takes and returns, read once from its type hints.

    A parameter without a hint, or hinted ``Any`` or ``object``, takes plain msgpack data as it is.

    Args:
        function: the method's function, with ``self`` as its first parameter.
        method: the method's name, for messages.
        hinted: the function whose hints count, if not its own: what it overrides.
        is_stream: whether its result is a stream.

    Raises:
        TypeError: a hint is not supported or cannot be evaluated; the message names it.

    Attributes:
        returns: the result's hint, that of an item if it is a stream; ``Any`` if there is none.
        items: what is in the stream that is its result; None if that is none.
        has_streams: whether a parameter is a stream.
        has_typed_keys: whether an argument is a dictionary whose keys travel as text; see
            :meth:`with_text_keys`.
        returns_typed_keys: the same of the result.
        convert_result: makes of a plain result what ``returns`` says; None if that is anything.
        parameters: without ``self``.
        written: their hints as they are written, where there are any.
    """

    def __init__(
        self,
        function: Callable[..., object],
        method: str,
        *,
        hinted: Callable[..., object] | None = None,
        is_stream: bool = False,
    ) -> None:
        # With self: to bind it as well keeps a keyword argument of that name from taking its place.
        self._signature = inspect.signature(function)
        self._self, *parameters = self._signature.parameters.values()
        self.parameters = parameters
        self.written = hints = _hints(hinted or function, method)
        self._method = method
        self._hints = {parameter.name: _hint(hints, parameter.name) for parameter in parameters}
        self.returns: Any = _item_hint(hints.get("return", Any)) if is_stream else _hint(hints, "return")
        for name, hint in self._hints.items():
            _check(hint if (item := stream_hint(hint)) is None else item[0], f"parameter {name!r}", method)
        _check(self.returns, "the result", method)
        self._streams = {
            name: _stream_of(*item) for name, hint in self._hints.items() if (item := stream_hint(hint)) is not None
        }
        self.has_streams = bool(self._streams)
        # They are not converted with the others, but item by item.
        self._hints.update(dict.fromkeys(self._streams, Any))
        self.items = _stream_of(self.returns, is_optional=False) if is_stream else None
        self._typed_keys = {name for name, hint in self._hints.items() if _codec.has_typed_keys(hint)}
        self.has_typed_keys = bool(self._typed_keys)
        self.returns_typed_keys = _codec.has_typed_keys(self.returns)
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        self._positional_names = [p.name for p in positional]
        self._keywords = {p.name for p in parameters if p.kind in _KEYWORD}
        self._variadic = {p.kind: p.name for p in parameters}
        self._tuples = {} if self._streams else _converters_by_arity(parameters, positional, self._hints)
        self.convert_result = None if self.returns is Any else _codec.converter(self.returns)
        self._converters = {name: _codec.converter(hint) for name, hint in self._hints.items() if hint is not Any}

    def convert_arguments(
        self, args: list[Any], kwargs: Mapping[str, Any] | None
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments as the handler gets them.

        Raises:
            InvalidArguments: they do not fit; the message names the parameter and what was expected.
        """
        # The common case, in one call into C: as many positional arguments as the method can take.
        if not kwargs and len(args) in self._tuples:
            convert = self._tuples[len(args)]
            if convert is None:
                return args, _NO_KEYWORDS
            try:
                return convert(args), _NO_KEYWORDS
            except _codec.DecodeError:
                pass  # below, parameter by parameter, to name the one
        return self._replace(args, kwargs or {}, self._convert)

    def stream_at(self, place: int | str) -> StreamOf | None:
        """What is in the stream that the argument at a position, or with a keyword, has to be; None: it is no stream."""
        return self._streams.get(self._name_at(place))

    def _name_at(self, place: int | str) -> str:
        """The parameter that the argument at a position, or with a keyword, is for; empty if there is none."""
        if isinstance(place, str):
            return place if place in self._keywords else self._variadic.get(inspect.Parameter.VAR_KEYWORD, "")
        if place < len(self._positional_names):
            return self._positional_names[place]
        return self._variadic.get(inspect.Parameter.VAR_POSITIONAL, "")

    def with_text_keys(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[Sequence[object], Mapping[str, object]]:
        """The arguments as they are sent, if :attr:`has_typed_keys`.

        Raises:
            InvalidArguments: they do not fit the parameters, or one cannot be sent.
        """

        def convert(shown: str, name: str, value: object) -> object:
            if name not in self._typed_keys:
                return value
            try:
                return _codec.with_text_keys(value)
            except _codec.EncodeError as exc:
                raise InvalidArguments(f"{self._method}: argument {shown} cannot be sent: {exc}") from exc

        self._bind(args, kwargs)
        # Each stays where it is: the place of a stream among them is sent as well.
        by_position = [convert(self.name_of(i), self._name_at(i), value) for i, value in enumerate(args)]
        by_keyword = {name: convert(repr(name), self._name_at(name), value) for name, value in kwargs.items()}
        return by_position, by_keyword

    def _bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> inspect.BoundArguments:
        try:
            return self._signature.bind(None, *args, **kwargs)
        except TypeError as exc:
            raise InvalidArguments(f"{self._method}: {exc}") from None

    def _replace(
        self, args: Sequence[object], kwargs: Mapping[str, object], convert: Callable[[str, str, object], object]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Puts ``convert(its name in messages, the parameter's name, value)`` in the place of each argument.

        Raises:
            InvalidArguments: they do not fit the parameters.
        """
        bound = self._bind(args, kwargs)
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if name == self._self.name:
                continue
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(convert(f"*{name}", name, item) for item in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: convert(key, name, item) for key, item in value.items()}
            else:
                bound.arguments[name] = convert(name, name, value)
        return bound.args[1:], bound.kwargs

    def name_of(self, index: int) -> str:
        """The name of the parameter that takes the positional argument ``index``, for a message."""
        if index < len(self._positional_names):
            return repr(self._positional_names[index])
        return str(index + 1)

    def _convert(self, shown: str, name: str, value: object) -> Any:
        stream = self._streams.get(name)
        if stream is not None:
            if isinstance(value, trio.abc.ReceiveChannel) or (value is None and stream.is_optional):
                return cast("object", value)
            raise InvalidArguments(
                f"{self._method}: argument {shown!r}: Expected a stream, got `{type(value).__name__}`"
            )
        convert = self._converters.get(name)
        if convert is None:
            return value
        try:
            return convert(value)
        except _codec.DecodeError as exc:
            raise InvalidArguments(f"{self._method}: argument {shown!r}: {exc}") from None


def _hints(function: Callable[..., object], method: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as exc:  # evaluating a hint runs whatever is written there
        raise TypeError(
            f"{method}: a type hint cannot be evaluated: {exc}; the names in the hints of a service"
            " must exist at run time, in the module of the class"
        ) from exc


def _hint(hints: dict[str, Any], name: str) -> Any:
    return _plain(hints.get(name, Any))


def _plain(hint: Any) -> Any:
    # Of object everything is an instance; and of what never comes back, there is nothing to check. With `is`,
    # because a hint need not be hashable.
    return Any if any(hint is anything for anything in (object, NoReturn, Never)) else hint


def returns_stream(function: Callable[..., object]) -> bool:
    """Whether calling ``function`` gives items, by what it is or what its hint says."""
    if inspect.isasyncgenfunction(function):
        return True
    # A plain wrapper passes on what the generator function gives; an async one makes something else of it.
    if not inspect.iscoroutinefunction(function) and inspect.isasyncgenfunction(inspect.unwrap(function)):
        return True
    hint: Any = getattr(function, "__annotations__", {}).get("return")
    if isinstance(hint, str):
        try:
            hint = get_type_hints(types.SimpleNamespace(__annotations__={"return": hint}), function.__globals__)[
                "return"
            ]
        except Exception:  # noqa: BLE001 - it cannot be evaluated, or not yet: reported when the service is used
            name = str(hint).partition("[")[0].rpartition(".")[2]
            return any(name == kind.__name__ for kind in _RESULT_STREAMS)
    return (get_origin(hint) or hint) in _RESULT_STREAMS


def _item_hint(hint: Any) -> Any:
    """The hint of an item, from that of a stream of them."""
    return _plain((*get_args(hint), Any)[0])


def stream_hint(hint: Any) -> tuple[Any, bool] | None:
    """The hint of an item and whether there may be None instead, if it is the hint of an argument that is a stream."""
    is_optional = False
    if get_origin(hint) in {Union, types.UnionType}:
        others = [part for part in get_args(hint) if part is not type(None)]
        if len(others) != 1:
            return None
        is_optional = True
        (hint,) = others
    if not any((get_origin(hint) or hint) is kind for kind in _ARGUMENT_STREAMS):
        return None
    return _item_hint(hint), is_optional


def _stream_of(hint: Any, is_optional: bool) -> StreamOf:
    convert, convert_all = (None, None) if hint is Any else (_codec.converter(hint), _codec.converter(list[hint]))
    return StreamOf(convert, convert_all, _codec.has_typed_keys(hint), is_optional)


def _check(hint: Any, what: str, method: str) -> None:
    if any((get_origin(hint) or hint) is kind for kind in (AsyncGenerator, trio.MemoryReceiveChannel)):
        raise TypeError(f"{method}: {what} is a stream if its type hint is AsyncIterator[...], not `{hint}`")
    try:
        _codec.check_hint(hint)
    except Exception as exc:  # hints inside of classes are evaluated here
        shown = hint.__qualname__ if isinstance(hint, type) else hint
        raise TypeError(f"{method}: the type hint `{shown}` of {what} cannot be sent: {exc}") from exc


def _converters_by_arity(
    parameters: list[inspect.Parameter], positional: list[inspect.Parameter], hints: dict[str, Any]
) -> dict[int, Callable[[Any], Any] | None]:
    """For each number of positional arguments that is enough, what converts them all; None: they stay as they are."""
    required_keywords = [
        p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is inspect.Parameter.empty
    ]
    if required_keywords:
        return {}
    required = sum(p.default is inspect.Parameter.empty for p in positional)
    types = [hints[p.name] for p in positional]
    # mypy takes the subscript for a type written in the source, where it may not be computed.
    return {
        n: None if all(hint is Any for hint in types[:n]) else _codec.converter(tuple[tuple(types[:n])])  # type: ignore[misc]
        for n in range(required, len(positional) + 1)
    }
