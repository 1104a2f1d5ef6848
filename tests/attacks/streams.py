"""Attacks with streams, credit and fragments."""

from __future__ import annotations

from trpc._frames import MORE, encode_frame
from trpc._messages import Hello, Kind, encode_credit

from .calls import batches
from .peers import HELLO, PREAMBLE, Peer, request

PART = bytes(64 * 1024)


async def fragments_unfinished(peer: Peer) -> None:
    """Requests that begin, as large as one read, until the server has had enough of them. Each goes on for ever."""
    start = request(1, "hold", bytes(100))[16:] + PART
    await peer.flood([HELLO])
    await peer.flood(encode_frame(Kind.REQUEST, number, start, flags=MORE) for number in range(1, 1500))


async def unfed(peer: Peer) -> None:
    """As many streams as there may be and then more, without an item."""
    await peer.flood([HELLO])
    await peer.flood(batches(lambda n: request(n, "total", None, streams={1: 0})))


async def uncredited(peer: Peer) -> None:
    """Streams that the server could fill at once, with room for one item each."""
    hello = Hello(1 << 24, 1000, 64, ("fragments", "streams"), stream_credit=1)
    await peer.flood([PREAMBLE + encode_frame(Kind.HELLO, 0, hello.encode())])
    await peer.flood(batches(lambda n: request(n, "numbers", 10**9)))


async def credit_overflow(peer: Peer) -> None:
    """The sum of what is granted leaves the range that it may have, as does the last one alone."""
    largest = encode_frame(Kind.RESULT_CREDIT, 1, encode_credit(2**32 - 1))
    beyond = encode_frame(Kind.RESULT_CREDIT, 1, encode_credit(2**63))
    await peer.flood([HELLO + request(1, "numbers", 10**9), largest * 1000, beyond])


async def credit_beyond(peer: Peer) -> None:
    """Credit for a call that has no stream."""
    await peer.flood([HELLO + request(1, "wait") + encode_frame(Kind.RESULT_CREDIT, 1, encode_credit(1000))])
