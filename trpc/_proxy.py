"""The caller's view of a service: an object with its methods, each of which makes a remote call."""

from __future__ import annotations

import functools
import types
import weakref
from typing import TYPE_CHECKING, Any

from ._service import Method, methods_of
from ._stream_call import StreamCall, UntypedCall, call_with_streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._stream_call import Calling


class _TypedProxy:
    """Base of the proxy classes that are made from interfaces."""

    __slots__ = ("_caller", "_service")
    _interface = ""

    def __init_subclass__(cls, *, interface: type[Any]) -> None:
        for method in methods_of(interface).values():
            setattr(cls, method.name, cls._remote(method))
        cls._interface = interface.__qualname__
        cls.__doc__ = interface.__doc__

    @staticmethod
    def _remote(method: Method) -> Callable[..., Any]:
        """What a proxy has in place of ``method``."""
        name, signature = method.name, method.signature

        def call(self: _TypedProxy, /, *args: object, **kwargs: object) -> Any:
            return self._caller.call(f"{self._service}.{name}", args, kwargs, signature)

        def send(self: _TypedProxy, /, *args: object, **kwargs: object) -> Any:
            return call_with_streams(self._caller, f"{self._service}.{name}", args, kwargs, signature)

        def stream(self: _TypedProxy, /, *args: object, **kwargs: object) -> Any:
            return StreamCall(self._caller, f"{self._service}.{name}", args, kwargs, signature)

        remote = stream if method.is_stream else send if signature.has_streams else call
        # Without its attributes: a proxy is not itself something to serve.
        return functools.wraps(method.function, updated=())(remote)

    def __init__(self, caller: Calling, service: str) -> None:
        self._caller = caller
        self._service = service

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self._interface}.{name} is not marked with @trpc.method, so it cannot be called through a proxy"
        )

    def __repr__(self) -> str:
        return f"<trpc proxy of {self._service!r}, as {self._interface}>"


class UntypedProxy:
    """A service known by its name only: every attribute is a method, nothing is checked on this side.

    What a method gives is not known either: await the call for a value, or enter it with ``async with`` for a stream.
    """

    __slots__ = ("_caller", "_service")

    def __init__(self, caller: Calling, service: str) -> None:
        self._caller = caller
        self._service = service

    def __getattr__(self, name: str) -> Callable[..., UntypedCall]:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is private, so it cannot be called through a proxy")
        caller, method = self._caller, f"{self._service}.{name}"

        def call(*args: object, **kwargs: object) -> UntypedCall:
            return UntypedCall(caller, method, args, kwargs)

        return call

    def __repr__(self) -> str:
        return f"<trpc proxy of {self._service!r}>"


def typed_proxy(interface: type[Any], caller: Calling, service: str) -> Any:
    """A proxy with the methods of ``interface``.

    Raises:
        TypeError: the interface has no methods, or one that cannot be called remotely.
    """
    if interface not in _proxy_classes:
        name = f"{interface.__name__}Proxy"
        _proxy_classes[interface] = types.new_class(
            name, (_TypedProxy,), {"interface": interface}, lambda namespace: namespace.update(__slots__=())
        )
    return _proxy_classes[interface](caller, service)


_proxy_classes: weakref.WeakKeyDictionary[type[Any], type[_TypedProxy]] = weakref.WeakKeyDictionary()
