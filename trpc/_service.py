"""What a peer may call: ``@method``, ``@service`` and the table that is built from a class once.

A wire name is only ever a key of that table. It is never looked up as an attribute, so nothing else of a
service object can be reached.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

import trio

from ._signature import Signature, returns_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type[Any])

# The service of every server's own, and with a dot behind it those that may come.
RESERVED: Final = "trpc"

_METHOD_MARK: Final = "__trpc_method__"
_SERVICE_MARK: Final = "__trpc_service__"


class _Options(NamedTuple):
    """What the decorator said; ``function`` is what it was applied to."""

    function: Callable[..., Any]
    in_thread: bool
    idempotent: bool


class _MethodDecorator(Protocol):
    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first match is what is meant, see below
        self, function: Callable[P, AsyncIterable[R]], /
    ) -> Callable[P, AbstractAsyncContextManager[trio.abc.ReceiveChannel[R]]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # as above
        self, function: Callable[P, Coroutine[Any, Any, AsyncIterable[R]]], /
    ) -> Callable[P, AbstractAsyncContextManager[trio.abc.ReceiveChannel[R]]]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


# mypy 2.4 and pyright 1.1.414 are both right that a coroutine is also an R; the first match is what is meant.
@overload
def method(  # type: ignore[overload-overlap]  # the first match is what is meant, see above
    function: Callable[P, AsyncIterable[R]], /
) -> Callable[P, AbstractAsyncContextManager[trio.abc.ReceiveChannel[R]]]: ...
@overload
def method(  # type: ignore[overload-overlap]  # as above
    function: Callable[P, Coroutine[Any, Any, AsyncIterable[R]]], /
) -> Callable[P, AbstractAsyncContextManager[trio.abc.ReceiveChannel[R]]]: ...
@overload
def method(function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
@overload
def method(function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
@overload
def method(*, in_thread: bool = False, idempotent: bool = False) -> _MethodDecorator: ...
def method(function: Any = None, /, *, in_thread: bool = False, idempotent: bool = False) -> Any:
    """Marks a method as one that a peer may call.

    An ``async def`` stays as it is. A plain ``def`` becomes awaitable, because that is how callers use it,
    locally and through a proxy; the server runs it inline, so it must be quick. An async generator, or
    a method that returns an async iterator by its hint, gives its items as a stream: callers enter what it
    returns with ``async with``, and get a ``trio.abc.ReceiveChannel``. An argument hinted ``AsyncIterable[T]``,
    ``AsyncIterator[T]`` or ``trio.abc.ReceiveChannel[T]`` is a stream of items from the caller. The type hints are
    the schema of the call.

    Args:
        function: the method; left out when there are options.
        in_thread: run a blocking ``def`` in a worker thread. A cancelled call waits for the thread to end,
            which a long computation shortens by calling ``trio.from_thread.check_cancelled()``. The threads
            are Trio's: ``trio.to_thread.current_default_thread_limiter()`` says how many run at once.
        idempotent: declares that running it twice does no harm.

    Raises:
        TypeError: it is not a plain or async method, or has a private name.
    """
    if function is None:
        return functools.partial(_mark, in_thread=in_thread, idempotent=idempotent)
    return _mark(function, in_thread=in_thread, idempotent=idempotent)


def _mark(function: Callable[..., Any], *, in_thread: bool, idempotent: bool) -> Callable[..., Any]:
    if not inspect.isfunction(function):
        raise TypeError(
            f"@trpc.method goes on a `def` or `async def` in a class, not on {function!r}"
            " (with staticmethod, classmethod or property: not supported)"
        )
    name = function.__qualname__
    if function.__name__.startswith("_"):
        raise TypeError(f"@trpc.method: {name} has a private name, which no peer may call")
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"@trpc.method: {name} is a plain generator; to send a stream, make it an `async def`")
    is_stream = returns_stream(function)
    is_async = is_stream or inspect.iscoroutinefunction(function)
    if not is_async and inspect.iscoroutinefunction(inspect.unwrap(function)):
        raise TypeError(
            f"@trpc.method: {name} wraps an `async def` in a plain function: make the wrapper async as well"
        )
    if is_stream and in_thread:
        raise TypeError(f"@trpc.method(in_thread=True): {name} gives a stream, which cannot be made in a thread")
    if is_async and in_thread:
        raise TypeError(f"@trpc.method(in_thread=True): {name} is async; only a blocking `def` can run in a thread")
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or first.kind not in {first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD}:
        raise TypeError(f"@trpc.method: {name} takes no self; only methods of an object can be called")
    marked: Callable[..., Any] = function
    if is_stream:
        marked = _channel(function)
    elif not is_async:
        marked = _awaitable(function, in_thread=in_thread)
    setattr(marked, _METHOD_MARK, _Options(function, in_thread, idempotent))
    return marked


def _awaitable(function: Callable[..., Any], *, in_thread: bool) -> Callable[..., Any]:
    """What a plain method is for local callers. The server takes the function itself."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if in_thread:
            return await trio.to_thread.run_sync(functools.partial(function, *args, **kwargs))
        await trio.lowlevel.checkpoint()
        return function(*args, **kwargs)

    return wrapper


def _channel(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a method that gives a stream is for local callers: a channel, with the generator in a task of its own."""
    if inspect.isasyncgenfunction(function):
        return trio.as_safe_channel(function)

    @functools.wraps(function)
    async def items(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        result = function(*args, **kwargs)
        iterator = aiter(await result if inspect.isawaitable(result) else result)
        try:
            async for item in iterator:
                yield item
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

    return trio.as_safe_channel(items)


@overload
def service(cls: C, /) -> C: ...
@overload
def service(*, name: str) -> Callable[[C], C]: ...
def service(cls: Any = None, /, *, name: str | None = None) -> Any:
    """Names a service on the wire. Its subclasses serve under that name too, unless they have their own.

    Without it, a service has the name of its class, or, if bases of the class have methods marked, of the
    topmost of them: the interface.

    Args:
        cls: the class; left out where a name is given.
        name: what it is called on the wire.

    Raises:
        TypeError: not applied to a class.
        ValueError: the name is empty.
    """
    if cls is None:
        return functools.partial(_name_service, name=name)
    return _name_service(cls, name=None)


def _name_service(cls: Any, *, name: str | None) -> Any:
    if not isinstance(cls, type):
        raise TypeError(f"@trpc.service goes on a class, not on {cls!r}")
    if name == "":
        raise ValueError(f"@trpc.service: the name of {cls.__qualname__} is empty")
    setattr(cls, _SERVICE_MARK, name or cls.__name__)
    return cls


class Method(NamedTuple):
    """One callable method of a service class.

    Attributes:
        cls: the class.
        name: its name in the class.
        function: what runs: takes ``self``; a coroutine function if ``is_async``.
        signature: the schema of its arguments and result.
        is_async: whether the function has to be awaited, or iterated over.
        is_stream: whether it gives a stream of items.
        in_thread: whether it runs in a worker thread.
        idempotent: whether running it twice does no harm.
    """

    cls: type[Any]
    name: str
    function: Callable[..., Any]
    signature: Signature
    is_async: bool
    is_stream: bool
    in_thread: bool
    idempotent: bool


def methods_of(cls: type[Any]) -> Mapping[str, Method]:
    """The method table of a class, built on first use.

    Raises:
        TypeError: the class has no methods, or one with a hint that is not supported.
    """
    if cls not in _tables:
        _tables[cls] = {name: _method_of(cls, name, options) for name, options in _marked(cls).items()}
    if not _tables[cls]:
        raise TypeError(
            f"{cls.__qualname__} has no methods that a peer may call: put @trpc.method on those that it should have"
        )
    return _tables[cls]


_tables: weakref.WeakKeyDictionary[type[Any], Mapping[str, Method]] = weakref.WeakKeyDictionary()


def _marked(cls: type[Any]) -> dict[str, _Options]:
    """The marked methods of a class and its bases; an override need not repeat the mark."""
    return {
        name: options
        for base in reversed(cls.__mro__)
        for name, attribute in vars(base).items()
        if not name.startswith("_") and (options := _mark_of(attribute)) is not None
    }


def _mark_of(attribute: object) -> _Options | None:
    """The mark, also inside of a staticmethod, classmethod or property: a mistake to report, not to pass over."""
    inner = getattr(attribute, "__func__", None) or getattr(attribute, "fget", None)
    return getattr(attribute, _METHOD_MARK, None) or getattr(inner, _METHOD_MARK, None)


def _method_of(cls: type[Any], name: str, options: _Options) -> Method:
    found = inspect.getattr_static(cls, name)
    function = getattr(found, _METHOD_MARK, options).function if hasattr(found, _METHOD_MARK) else found
    where = f"{cls.__qualname__}.{name}"
    if not inspect.isfunction(function):
        raise TypeError(f"{where} is a method of its interface, but here it is {function!r}")
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"{where} is a plain generator; to send a stream, make it an `async def`")
    # An override without any hints is checked by the hints of what it overrides.
    hinted = function if function.__annotations__ else options.function
    is_stream = returns_stream(function) or returns_stream(hinted)
    is_async = is_stream or inspect.iscoroutinefunction(function)
    return Method(
        cls=cls,
        name=name,
        function=function,
        signature=Signature(function, where, hinted=hinted, is_stream=is_stream),
        is_async=is_async,
        is_stream=is_stream,
        in_thread=options.in_thread and not is_async,
        idempotent=options.idempotent,
    )


def service_name(cls: type[Any]) -> str:
    """The name of a service on the wire.

    The nearest ``@service``; else the name of the interface: the topmost of the class and its bases that
    has marked methods. So a class and what it implements, or extends, have one name, and proxies of either
    reach it. A base class that several services share for its methods is no interface: name the services.

    Raises:
        TypeError: the class has several such bases, none of which is a base of the others.
    """
    named = [base for base in cls.__mro__ if _SERVICE_MARK in vars(base)]
    marked = [base for base in cls.__mro__ if _marked(base)] or [cls]
    if named:
        is_clear = all(base in named[0].__mro__ for base in named)
    else:
        is_clear = all(marked[-1] in base.__mro__ for base in marked)
    if not is_clear:
        interfaces = ", ".join(base.__name__ for base in named or marked[1:])
        raise TypeError(
            f"{cls.__qualname__} implements several interfaces ({interfaces}): say which with"
            " @trpc.service(name=...), or serve it as a mapping of names to objects"
        )
    return str(vars(named[0])[_SERVICE_MARK]) if named else marked[-1].__name__


class BoundMethod:
    """A method of one service object, as the server calls it.

    Args:
        name: on the wire.
        call: the bound method.
        method: what the class says of it.

    Attributes:
        waits: how much it is expected to wait; kept by those who call it.
    """

    __slots__ = ("call", "method", "name", "waits")

    def __init__(self, name: str, call: Callable[..., Any], method: Method) -> None:
        self.name = name
        self.call = call
        self.method = method
        self.waits = 0


Services = object | Mapping[str, object] | list[object] | tuple[object, ...]


def table_of(services: Services) -> dict[str, BoundMethod]:
    """All that a server offers: wire names to methods.

    Args:
        services: one service object, several in a list or tuple, or a mapping of names to objects.

    Raises:
        TypeError: one is a class instead of an object, or has no methods, or a method that cannot be served.
        ValueError: two services of one name, or a name that is empty or reserved.
    """
    named: list[tuple[object, object]]
    if isinstance(services, Mapping):
        named = list(cast("Mapping[object, object]", services).items())
    else:
        several = cast("Sequence[object]", services) if isinstance(services, list | tuple) else [services]
        named = [(_name_for(obj), obj) for obj in several]
    if not named:
        raise TypeError("there is no service to serve")
    table: dict[str, BoundMethod] = {}
    seen: set[str] = set()
    for name, obj in named:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a service's name is a string that is not empty, not {name!r}")
        if name in seen:
            raise ValueError(
                f"two services have the name {name!r}: give one another with @trpc.service(name=...),"
                " or serve a mapping of names to objects"
            )
        if name.partition(".")[0] == RESERVED:
            raise ValueError(f"the name {name!r} is kept for the service by which a server describes itself")
        seen.add(name)
        _check_object(obj)
        table |= bound_methods(name, obj)
    return table


def bound_methods(name: str, obj: object) -> dict[str, BoundMethod]:
    """The part of a table that is one service's. Raises TypeError as :func:`table_of`."""
    return {
        (wire_name := f"{name}.{method_.name}"): BoundMethod(wire_name, method_.function.__get__(obj), method_)
        for method_ in methods_of(type(obj)).values()
    }


def _name_for(obj: object) -> str:
    _check_object(obj)
    return service_name(type(obj))


def _check_object(obj: object) -> None:
    if isinstance(obj, type):
        raise TypeError(f"a service is an object, not a class: pass {obj.__qualname__}()")
