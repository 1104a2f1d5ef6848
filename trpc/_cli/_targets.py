"""``module:Name`` on the command line, as the services that it stands for."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pathlib
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
    module_name, path = _parts(target)
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


def check_module(target: str) -> None:
    """Whether it can be ``module:Name``, without importing it.

    Raises:
        CommandError: it cannot: it is not of that form, or there is no such module.
    """
    name = _parts(target)[0].partition(".")[0]
    here = _look_here()
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise _no_module(name, here)


def _parts(target: str) -> tuple[str, str]:
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise CommandError(f"{target!r} is not of the form module:Name", hint="such as shop.service:Orders")
    if os.sep in module_name or module_name.startswith(".") or pathlib.Path(module_name).is_file():
        # What a shell completes.
        plain = ".".join(pathlib.Path(module_name).with_suffix("").parts)
        is_name = all(part.isidentifier() for part in plain.split("."))
        hint = f"did you mean {plain}:{path}?" if is_name else "such as shop.service:Orders"
        raise CommandError(f"{module_name!r} is the path of a file, and not the name of a module", hint=hint)
    return module_name, path


def _look_here() -> str:
    # As for `python -m`: what is here comes first.
    here = os.getcwd()  # noqa: PTH109 - an entry of sys.path is text
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def _no_module(name: str, here: str) -> CommandError:
    return CommandError(f"there is no module {name!r}", hint=f"looked in {here} and in sys.path")


def _import(name: str) -> ModuleType:
    here = _look_here()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # Or it is one that the module itself imports: then its traceback says where.
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise
        raise _no_module(exc.name, here) from None


def _made(target: str, factory: Any) -> Any:
    if inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(factory):
        raise CommandError(f"{target} is an async function", hint="name an object, or a plain function that makes one")
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
