"""The arguments of a call, from those on the command line, and with what the server tells of its method."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import click

from .. import ConnectionLost
from ._binding import bind
from ._connecting import time_limit
from ._exits import CommandError, ExitCode
from ._input import chunks_of, lines_of, whole_of
from ._signatures import method_in, services_of, signature_text
from ._text import near, one_line
from ._types import Types
from ._values import BadValueError, bytes_value_of, json_value_of, takes_bytes, value_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from .. import MethodInfo
    from ._binding import Bound, Given
    from ._connecting import Target

# Characters of a value in a message.
_MAX_SHOWN: Final = 60


# What begins with - and is a value: a negative number, or an ISO duration.
_NEGATIVE: Final = re.compile(r"-(\d|\.\d|inf|nan|P)", re.IGNORECASE | re.ASCII)


class ArgumentsCommand(click.Command):
    """A command that takes the arguments of a call: of what begins with -, negative numbers are such, all else is options."""

    def __init__(self, name: str | None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        # -h would be in the middle of a value, too.
        self.context_settings = {"ignore_unknown_options": True, "help_option_names": ["--help"]}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuses options that are unknown, which would be taken for arguments."""
        if not ctx.resilient_parsing:
            self._check_options(ctx, args)
        return super().parse_args(ctx, args)

    def _check_options(self, ctx: click.Context, args: list[str]) -> None:
        takes_value = {
            name: not (option.is_flag or option.count)
            for option in self.get_params(ctx)
            if isinstance(option, click.Option)
            for name in option.opts
        }
        texts = iter(args)
        for text in texts:
            name, equals, _ = text.partition("=")
            if text == "--":
                return
            if name in takes_value:
                if takes_value[name] and not equals:
                    next(texts, None)
            elif text.startswith("-") and text != "-" and not _NEGATIVE.match(text):
                similar = near(name, takes_value)
                other = "-- goes before values that begin with -"
                raise CommandError(f"no such option: {name}", hint=f"{similar} {other}" if similar else other)


class Source(NamedTuple):
    """Where a value comes from, if not from the command line: a file, or standard input if the path is None."""

    path: str | None


class ItemsFrom(NamedTuple):
    """A stream argument whose items are the lines of a file."""

    source: Source
    hint: Any
    shown: str


class Items(NamedTuple):
    """A stream argument whose items were on the command line."""

    values: list[object]


class Arguments(NamedTuple):
    """What a call is made with. Streams are in it as what they are made from: see :meth:`opened`."""

    args: list[object]
    kwargs: dict[str, object]
    mistakes: list[CommandError]
    """Items of streams that could not be sent. They make the call fail."""

    def opened(self) -> tuple[list[object], dict[str, object]]:
        """The arguments by position and by name, with new streams, for one call."""
        return [self._open(value) for value in self.args], {
            name: self._open(value) for name, value in self.kwargs.items()
        }

    def _open(self, value: object) -> object:
        if isinstance(value, ItemsFrom):
            return _read_items(value, self.mistakes)
        if isinstance(value, Items):
            return _given_items(value.values)
        return value

    @property
    def reads_input(self) -> bool:
        """Whether a stream in it is read while the call goes on, and so cannot be read twice."""
        return any(isinstance(value, ItemsFrom) for value in (*self.args, *self.kwargs.values()))


class Prepared(NamedTuple):
    """What is known before a call is made.

    Attributes:
        arguments: what to make it with.
        method: what the server tells of the method; None: nothing.
        signature: the method's, as a hint for people; empty if it is not known.
    """

    arguments: Arguments
    method: MethodInfo | None
    signature: str


async def prepared(target: Target, name: str, texts: Sequence[str]) -> Prepared:
    """Asks the server for a method, and makes the arguments of a call of it from what was written.

    It has a connection of its own, which is left at once where the server does not answer, and which does not wait for
    what is read from standard input.

    Raises:
        CommandError: there is no such method, the arguments are none for it, or the time is over.
        RPCError: the server cannot be asked.
    """
    try:
        with time_limit(target.timeout):
            async with target.connected() as client:
                services = await services_of(client)
    except ConnectionLost as exc:
        raise CommandError(str(exc), ExitCode.UNREACHABLE, hint="it was not executed") from None
    if services is None:
        return Prepared(await arguments_of(bind(texts, None), Types()), None, "")
    service, method = method_in(services, name)
    signature = signature_text(name, method)
    if method["deprecated"] is not None:
        click.echo(f"trpc: {name} is deprecated: {one_line(method['deprecated'])}", err=True)
    try:
        return Prepared(await arguments_of(bind(texts, method), Types(service["types"])), method, signature)
    except CommandError as exc:
        exc.hint = exc.hint or signature
        raise


async def arguments_of(bound: Bound, types: Types) -> Arguments:
    """Converts the arguments to what is sent, and reads files and standard input, except for streams.

    Raises:
        CommandError: one cannot be converted, or a file not be read. The message names it.
    """
    stdin = [given.shown for given in (*bound.args, *bound.kwargs.values()) if given.text == "-" and not given.is_json]
    if len(stdin) > 1:
        raise CommandError(f"standard input is for one argument, not for {' and '.join(map(repr, stdin))}")
    return Arguments(
        [await _value(given, types) for given in bound.args],
        {name: await _value(given, types) for name, given in bound.kwargs.items()},
        [],
    )


async def _value(given: Given, types: Types) -> object:
    hint = types.of(given.parameter["type"])
    source = None if given.is_json else _source_of(given.text)
    try:
        if given.parameter["is_stream"]:
            # Not the case of a stream that may be None, and is.
            return ItemsFrom(source, hint, given.shown) if source else _items(given, hint)
        if source is not None:
            return bytes_value_of(await whole_of(source.path), hint)
        if given.is_json:
            return json_value_of(given.text, hint)
        return value_of(_unescaped(given.text), hint)
    except BadValueError as exc:
        raise _refused(given.shown, given.text, exc) from None


def _items(given: Given, hint: Any) -> Items | None:
    if given.text == "null":
        return None
    try:
        return Items(cast("list[object]", json_value_of(given.text, list[hint])))
    except BadValueError as exc:
        raise BadValueError(f"a stream is - for the lines of standard input, @FILE, or a JSON list: {exc}") from None


def _source_of(text: str) -> Source | None:
    if text == "-":
        return Source(None)
    return Source(text[1:]) if text.startswith("@") and not text.startswith("@@") and len(text) > 1 else None


def _unescaped(text: str) -> str:
    return text[1:] if text.startswith("@@") else text


async def _given_items(values: list[object]) -> AsyncGenerator[object, None]:
    for value in values:
        yield value


async def _read_items(stream: ItemsFrom, mistakes: list[CommandError]) -> AsyncGenerator[object, None]:
    path = stream.source.path
    is_binary = takes_bytes(stream.hint)
    number = 0
    try:
        async with aclosing(chunks_of(path) if is_binary else lines_of(path)) as parts:
            async for part in parts:
                number += 1
                try:
                    yield part if is_binary else bytes_value_of(part, stream.hint)
                except BadValueError as exc:
                    raise _refused(f"{stream.shown}, line {number}", part.decode(errors="replace"), exc) from None
    except CommandError as exc:
        mistakes.append(exc)
        raise


def _refused(shown: str, text: str, exc: BadValueError) -> CommandError:
    text = one_line(text)
    text = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
    return CommandError(f"argument {shown}: {exc}: {text!r}")
