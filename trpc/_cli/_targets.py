"""``module:Name`` on the command line, as the services that it stands for."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ._exits import CommandError
from ._text import near

if TYPE_CHECKING:
    from types import ModuleType


def services_at(target: str) -> Any:
    """What ``module:Name`` names, as ``trpc.serve_tcp`` takes it.

    A class is called without arguments, and so is a function; objects, lists and mappings are taken as they are.

    Raises:
        CommandError: it cannot be had; the message says why.
    """
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise CommandError(f"{target!r} is not of the form module:Name", hint="such as shop.service:Orders")
    found: Any = _import(module_name)
    for number, name in enumerate(path.split(".")):
        try:
            found = getattr(found, name)
        except AttributeError:
            where = ".".join([module_name, *path.split(".")[:number]])
            names = [known for known in dir(found) if not known.startswith("_")]
            raise CommandError(f"there is no {name!r} in {where}", hint=near(name, names)) from None
    if isinstance(found, type) or inspect.isroutine(found):
        found = _made(target, found)
    return found


def _import(name: str) -> ModuleType:
    # As for `python -m`: what is here comes first.
    here = os.getcwd()  # noqa: PTH109 - an entry of sys.path is text
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # Or it is one that the module itself imports: then its traceback says where.
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise
        raise CommandError(f"there is no module {exc.name!r}", hint=f"looked in {here} and in sys.path") from None


def _made(target: str, factory: Any) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as exc:
        raise CommandError(
            f"{target} cannot be called without arguments: {exc}", hint="name an object, or a function that makes one"
        ) from None
    except ValueError:  # it has no signature: then it has to be tried
        pass
    return factory()


def names_of(services: Any) -> str:
    """What people call the services."""
    if isinstance(services, Mapping):
        return ", ".join(str(name) for name in cast("Mapping[object, object]", services))
    several = cast("list[Any]", services) if isinstance(services, list | tuple) else [services]
    return ", ".join(type(service).__name__ for service in several)
