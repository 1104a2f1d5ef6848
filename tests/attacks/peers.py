"""The attacker's end of a connection: bytes over a socket, and how it ended."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter

import trio

from trpc import _codec
from trpc._exceptions import Code
from trpc._frames import PREAMBLE, FrameReader, encode_frame
from trpc._messages import Hello, Kind, encode_request

ANSWERS = (Kind.RESULT, Kind.ERROR)
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)

HELLO = PREAMBLE + encode_frame(
    Kind.HELLO, 0, Hello(1 << 24, 1000, 64, ("fragments", "streams"), stream_credit=1 << 19).encode()
)

_seeds = itertools.count()


def request(call_id: int, method: str, *args, kind=Kind.REQUEST, metadata=None, streams=None) -> bytes:
    """The bytes of a call."""
    body = encode_request(f"Target.{method}", list(args), None, None, metadata, streams, max_depth=64)
    return encode_frame(kind, call_id, body if isinstance(body, bytes) else b"".join(body))


class Peer:
    """One connection.

    Attributes:
        end: how it ended; None as long as it has not.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        # Its pongs go out beside what it attacks with.
        self._sending = trio.Lock()
        self._ended = trio.Event()
        self._goaway = ""
        self.end: str | None = None
        self.answers = 0
        self.sent = 0
        self.seed = next(_seeds)
        self._answered = trio.Event()

    async def send(self, data: bytes) -> None:
        """Raises ``trio.BrokenResourceError`` when the server has closed the connection."""
        try:
            async with self._sending:
                await self._stream.send_all(data)
            self.sent += len(data)
        except BROKEN:
            self._over("reset")
            raise

    async def flood(self, pieces) -> None:
        """Sends until nothing is left or the server has closed the connection."""
        with contextlib.suppress(*BROKEN):
            for piece in pieces:
                await self.send(piece)

    async def read(self) -> None:
        """Takes what the server sends, until it closes the connection."""
        reader = FrameReader(max_body=(1 << 24) + 16)
        while self.end is None:
            try:
                data = await self._stream.receive_some()
            except BROKEN:
                self._over("reset")
                return
            if not data:
                self._over("closed")
                return
            self._answered.set()
            for frame in reader.feed(data):
                self.answers += frame.kind in ANSWERS
                if frame.kind == Kind.GOAWAY:
                    code = _codec.unpack(frame.body, max_depth=8)["code"]
                    self._goaway = f"GOAWAY {Code(code).name}, "
                elif frame.kind == Kind.PING:
                    # As one that is alive.
                    await self.flood([encode_frame(Kind.PONG, frame.id)])

    def _over(self, how: str) -> None:
        if self.end is None:
            self.end = self._goaway + how
            self._ended.set()
            self._answered.set()

    async def answered(self, answers: int) -> None:
        """Waits until there are so many answers, or none can come any more."""
        while self.answers < answers and self.end is None:
            self._answered = trio.Event()
            await self._answered.wait()

    async def ended(self) -> None:
        await self._ended.wait()


async def attack_once(port: int, attack, ends: Counter, done: Counter) -> None:
    """Opens one connection, has it attack until the server closes it or this is cancelled, and notes its end."""
    peer = None
    try:
        # Not through open_tcp_stream(), which takes tasks of its own: 1,000 of these begin at once.
        with trio.socket.socket() as sock:
            await sock.connect(("127.0.0.1", port))
            peer = Peer(trio.SocketStream(sock))
            await _attack(peer, attack)
    except OSError as exc:
        ends[type(exc).__name__] += 1
        await trio.sleep(0.01)
    finally:
        if peer is not None:
            ends[peer.end or "open"] += 1
            done["sent"] += peer.sent
            done["answers"] += peer.answers


async def _attack(peer: Peer, attack) -> None:
    async with trio.open_nursery() as nursery:
        if attack.reads:
            nursery.start_soon(peer.read)
        await attack.once(peer)
        await peer.ended()
        nursery.cancel_scope.cancel()


async def attack_for(seconds: float, ports: dict, attack, connections: int | None = None) -> dict:
    """So many connections at once, each a new one when the server has closed it. Returns how all of them ended.

    What must be closed is given ``attack.patience`` seconds after that.
    """
    ends, done = Counter(), Counter(sent=0, answers=0)

    async def again_and_again() -> None:
        while trio.current_time() < end:
            await attack_once(ports[attack.port], attack, ends, done)

    end = trio.current_time() + seconds
    with trio.move_on_at(end + attack.patience):
        async with trio.open_nursery() as nursery:
            for _ in range(connections or attack.connections):
                nursery.start_soon(again_and_again)
    return {"ends": dict(ends), **done}
