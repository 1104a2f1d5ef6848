"""A chat room: each person has a stream of lines in, and a stream of messages out.

* ``python -m examples.chat`` shows a room in which one person is killed, and one does not read
* ``python -m examples.chat serve [PORT]`` opens a room until Ctrl-C, and prints its URL
* ``python -m examples.chat URL NAME`` enters it: what you type is said, and Ctrl-D leaves

People leave by ending their lines, by not wanting more messages, or by being cut off: the room does not care which.
Who reads slowly holds up nobody. For each person the room keeps ``BACKLOG`` messages, beside those on their way, and
who is further behind is put out: a talk with holes in it would be worse, and one can enter again.
"""

import contextlib
import dataclasses
import functools
import io
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Annotated

import msgspec
import trio

import trpc

BACKLOG = 100
PAUSE = 0.01
"""Seconds between two lines of a person. Whoever pastes a book waits; nobody else is flooded."""
LENGTH = 1000

Name = Annotated[str, msgspec.Meta(pattern=r"^\w{1,20}\Z")]
Line = Annotated[str, msgspec.Meta(max_length=LENGTH)]


@dataclasses.dataclass(frozen=True)
class Message:
    """What somebody says; without a sender, what happens."""

    sender: str
    text: str

    def __str__(self) -> str:
        text = f"{self.sender}: {self.text}" if self.sender else f"* {self.text}"
        # It comes from others, and could tell a terminal to do things.
        return "".join(char if char.isprintable() else "?" for char in text)


@trpc.exception
class NameTakenError(Exception):
    """Somebody in the room has this name."""


@trpc.exception
class FellBehindError(Exception):
    """The reader is too far behind."""


class Person:
    """Somebody in the room.

    Args:
        scope: cancelled to put them out.

    Attributes:
        messages: what they have not got yet.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._send, self.messages = trio.open_memory_channel[Message](BACKLOG)

    def tell(self, message: Message) -> None:
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self._scope.cancel()

    def end(self) -> None:
        """There are no more messages behind those that wait."""
        self._send.close()


class Room:
    """The service, one for all."""

    def __init__(self) -> None:
        self._people: dict[str, Person] = {}

    @trpc.method
    async def join(self, name: Name, lines: AsyncIterable[Line]) -> AsyncIterator[Message]:
        """Says the lines to all others, and gives what they say, until the lines end."""
        if name in self._people:
            raise NameTakenError(f"{name} is in the room already")
        # A nursery may be open where a method yields: it is all one task, and a cancel arrives at the `yield`.
        async with trio.open_nursery() as nursery:
            person = Person(nursery.cancel_scope)
            person.tell(Message("", f"here are: {', '.join(sorted(self._people)) or 'nobody'}"))
            self._people[name] = person
            self._tell_others(name, Message("", f"{name} has come"))
            nursery.start_soon(self._listen, name, person, lines)
            try:
                async for message in person.messages:
                    yield message
            finally:
                del self._people[name]
                self._tell_others(name, Message("", f"{name} has left"))
        if nursery.cancel_scope.cancelled_caught:
            raise FellBehindError(f"{name} is {BACKLOG} messages behind")

    async def _listen(self, name: str, person: Person, lines: AsyncIterable[str]) -> None:
        async for line in lines:
            self._tell_others(name, Message(name, line))
            await trio.sleep(PAUSE)
        person.end()

    def _tell_others(self, name: str, message: Message) -> None:
        for other, person in self._people.items():
            if other != name:
                person.tell(message)


# --- the programs ---


async def serve(port: int = 0) -> None:
    async with trio.open_nursery() as nursery:
        server: trpc.Server = await nursery.start(trpc.serve_tcp, Room(), port)
        print(server.url, flush=True)


async def enter(url: str, name: str) -> None:
    async with trpc.connect(url) as client, client.proxy(Room).join(name, typed()) as messages:
        async for message in messages:
            print(message, flush=True)


async def typed() -> AsyncIterator[str]:
    # Without a buffer: its lock, held by a thread that is left behind, makes Python abort at exit.
    stdin = io.FileIO(0, closefd=False)
    # In a thread, because a terminal cannot be read otherwise.
    while line := await trio.to_thread.run_sync(stdin.readline, abandon_on_cancel=True):
        yield line.decode(errors="replace").strip()[:LENGTH]


class Actor:
    """Somebody with a part in the demonstration."""

    def __init__(
        self, name: str, lines: trio.MemorySendChannel[str], messages: trio.abc.ReceiveChannel[Message]
    ) -> None:
        self._name = name
        self._lines = lines
        self._messages = messages

    async def say(self, *lines: str) -> None:
        for line in lines:
            await self._lines.send(line)

    async def hear(self, text: str) -> None:
        """Waits until somebody says this, or it happens."""
        async for message in self._messages:
            if message.text == text:
                print(f"{self._name} hears  {message}", flush=True)
                return
        raise EOFError(f"{self._name} has not heard: {text}")


@contextlib.asynccontextmanager
async def acting(url: str, name: str, limits: trpc.Limits | None = None) -> AsyncGenerator[Actor, None]:
    send, lines = trio.open_memory_channel[str](0)
    async with trpc.connect(url, limits=limits) as client, client.proxy(Room).join(name, lines) as messages:
        yield Actor(name, send, messages)


async def demonstrate() -> None:
    async with trio.open_nursery() as nursery:
        server: trpc.Server = await nursery.start(trpc.serve_tcp, Room(), 0)
        url = server.url
        async with acting(url, "ada") as ada, acting(url, "bob") as bob:
            await ada.hear("bob has come")
            await ada.say("hello bob")
            await bob.hear("hello bob")
            await bob.say("hello ada")
            await ada.hear("hello ada")

            print("--- eve is a process, and is killed", flush=True)
            command = [sys.executable, __file__, url, "eve"]
            start = functools.partial(
                trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, check=False
            )
            eve: trio.Process = await nursery.start(start)
            assert eve.stdin is not None
            await eve.stdin.send_all(b"hello all\n")
            await ada.hear("hello all")
            await bob.hear("hello all")
            eve.kill()
            await ada.hear("eve has left")
            await bob.hear("eve has left")

            print("--- dan does not read", flush=True)
            async with acting(url, "dan", trpc.Limits(stream_credit=1000)) as dan:
                await ada.hear("dan has come")
                async with trio.open_nursery() as talk:
                    talk.start_soon(ada.say, *(f"line {n}" for n in range(1, 1001)))
                    await bob.hear("line 100")
                    await bob.hear("dan has left")
                    talk.cancel_scope.cancel()
                try:
                    await dan.hear("what is lost")
                except FellBehindError as exc:
                    print("dan is told:", exc, flush=True)
        nursery.cancel_scope.cancel()


def is_our_fault(record: logging.LogRecord) -> bool:
    """Keeps out of the log what is no failure of the room: the person is told."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, NameTakenError | FellBehindError)


def main() -> None:
    logging.getLogger("trpc.handler").addFilter(is_our_fault)
    code: int | str = 0
    try:
        match sys.argv[1:]:
            case []:
                trio.run(demonstrate)
            case ["serve"]:
                trio.run(serve)
            case ["serve", port]:
                trio.run(serve, int(port))
            case [url, name]:
                trio.run(enter, url, name)
            case _:
                code = __doc__ or ""
    except* KeyboardInterrupt:
        code = 130
    except* (trpc.RPCError, NameTakenError, FellBehindError, OSError, ValueError) as group:
        code = f"error: {group.exceptions[0]}"
    sys.exit(code)


if __name__ == "__main__":
    main()
