"""Attacks with calls, cancels, pings, and arguments that cost more to read than to send."""

from __future__ import annotations

import functools
from itertools import count

from trpc._frames import encode_frame
from trpc._messages import Kind

from .peers import HELLO, Peer, request

MiB = 1024 * 1024
BATCH = 100


def batches(make, first: int = 1):
    """Pieces of many messages each, with ids that increase."""
    for start in count(first, BATCH):
        yield b"".join(make(call_id) for call_id in range(start, start + BATCH))


def renumbered(frame: bytes):
    """The same large frame again and again, each with the next id."""
    head, rest = frame[:8], frame[16:]
    for call_id in count(1):
        yield head + call_id.to_bytes(8, "big")
        yield rest


async def rapid_reset(peer: Peer) -> None:
    await peer.flood([HELLO])
    await peer.flood(batches(lambda n: request(n, "wait") + encode_frame(Kind.CANCEL, n)))


async def ping_flood(peer: Peer) -> None:
    await peer.flood([HELLO])
    await peer.flood(batches(lambda n: encode_frame(Kind.PING, n)))


async def unknown_methods(peer: Peer) -> None:
    await peer.flood([HELLO])
    await peer.flood(batches(lambda n: request(n, f"no_such_method_{n}")))


async def bad_arguments(peer: Peer) -> None:
    await peer.flood([HELLO])
    await peer.flood(batches(lambda n: request(n, "add", "one", [])))


async def notify_flood(peer: Peer) -> None:
    await peer.flood([HELLO])
    await peer.flood(batches(lambda n: request(n, "add", 1, 2, kind=Kind.NOTIFY)))


async def notify_overload(peer: Peer) -> None:
    await peer.flood([HELLO])
    await peer.flood(batches(lambda n: request(n, "wait", kind=Kind.NOTIFY)))


async def never_reads(peer: Peer) -> None:
    frame = request(1, "echo", bytes(64 * 1024))
    await peer.flood([HELLO])
    await peer.flood(renumbered(frame))


def frame_with_argument(method: str, argument: bytes) -> bytes:
    """A request whose one argument is made of these bytes."""
    name = f"Target.{method}".encode()
    return encode_frame(Kind.REQUEST, 1, b"\x92" + bytes([0xA0 + len(name)]) + name + b"\x91" + argument)


@functools.cache
def header_bomb_frame() -> bytes:
    # Each header announces as many elements as there are bytes.
    return frame_with_argument("take", (b"\xdd" + (MiB).to_bytes(4, "big")) * 100 + b"\xc0" * MiB)


async def header_bomb(peer: Peer) -> None:
    await peer.flood([HELLO])
    await peer.flood(renumbered(header_bomb_frame()))


@functools.cache
def empty_maps_frame() -> bytes:
    size = 16 * MiB - 64
    return frame_with_argument("take", b"\xdd" + size.to_bytes(4, "big") + b"\x80" * size)


async def empty_maps(peer: Peer) -> None:
    """One after the other: the next one when there is an answer."""
    await peer.flood([HELLO])
    frames = renumbered(empty_maps_frame())
    while peer.end is None:
        answers = peer.answers
        await peer.flood([next(frames), next(frames)])
        await peer.answered(answers + 1)


@functools.cache
def deep_frame() -> bytes:
    return frame_with_argument("take", b"\x91" * 100_000 + b"\xc0")


async def deep(peer: Peer) -> None:
    await peer.flood([HELLO])
    await peer.flood(renumbered(deep_frame()))


async def calls_in_flight(peer: Peer) -> None:
    frame = request(1, "hold", bytes(MiB))
    frames = renumbered(frame)
    # Enough for the limit of this connection and some more: beyond it there is an answer.
    await peer.flood([HELLO, *(next(frames) for _ in range(2 * 80))])


@functools.cache
def huge_metadata_frame() -> bytes:
    return request(1, "add", 1, 2, metadata={f"{number:07}": "x" * 40 for number in range(320_000)})


async def huge_metadata(peer: Peer) -> None:
    await peer.flood([HELLO])
    frames = renumbered(huge_metadata_frame())
    while peer.end is None:
        answers = peer.answers
        await peer.flood([next(frames), next(frames)])
        await peer.answered(answers + 1)


async def ids_reused(peer: Peer) -> None:
    await peer.flood([HELLO + request(1, "add", 1, 2) * 2])


async def ids_decreasing(peer: Peer) -> None:
    await peer.flood([HELLO + request(7, "add", 1, 2) + request(6, "add", 1, 2)])


async def future_cancels(peer: Peer) -> None:
    await peer.flood([HELLO + request(1, "wait") + encode_frame(Kind.CANCEL, 2)])
