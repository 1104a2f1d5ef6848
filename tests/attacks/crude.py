"""Attacks with bytes that are no calls: lengths, other protocols, and what is begun and not completed."""

from __future__ import annotations

import random
import struct

from trpc._frames import PREAMBLE
from trpc._messages import Kind

from .peers import HELLO, Peer

MiB = 1024 * 1024
REST = bytes(64 * 1024)


def length_of(value: int):
    async def once(peer: Peer) -> None:
        # More than the length, so that a server that allocated and waited would have something to wait with.
        await peer.flood([HELLO + struct.pack(">I", value) + REST])

    return once


zero_length = length_of(0)
over_limit = length_of(12 + 16 * MiB + 1)
longest = length_of(2**32 - 1)


async def http(peer: Peer) -> None:
    await peer.flood([b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])


# A record with the beginning of a ClientHello of TLS 1.2.
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60)


async def tls_to_plain(peer: Peer) -> None:
    await peer.flood([TLS])


async def half_tls(peer: Peer) -> None:
    await peer.flood([TLS])


async def random_bytes(peer: Peer) -> None:
    chance = random.Random(peer.seed)
    # Half of them behind a proper hello: then they are taken for frames.
    await peer.flood([(HELLO if chance.random() < 0.5 else b"") + chance.randbytes(chance.choice([1, 20, 1000]))] * 3)


async def idle(peer: Peer) -> None:
    await peer.flood([HELLO])


async def half_hello(peer: Peer) -> None:
    await peer.flood([PREAMBLE + HELLO[len(PREAMBLE) : len(HELLO) - 10]])


async def half_frame(peer: Peer) -> None:
    head = struct.pack(">IBBHQ", 12 + 16 * MiB, Kind.REQUEST, 0, 0, 1)
    await peer.flood([HELLO + head, *[REST] * (8 * MiB // len(REST))])
