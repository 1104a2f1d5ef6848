"""docs/memory.md attacked: the memory of a real server stays below what the page's formula says."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
import trio
from processes import python
from support import RawPeer, joined

import trpc
from trpc._frames import encode_frame
from trpc._messages import Kind, encode_request

SERVICE = Path(__file__).with_name("memory_service.py")
KiB, MiB = 1024, 1024 * 1024

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")

# docs/memory.md: what a byte of a request may become, and what a call and a connection take beside them.
GROWTH = 147
CALL = 16 * KiB
CONNECTION = 512 * KiB
# What the allocator and the interpreter take in any case, when they have something to do.
SLACK = 24 * MiB


def room_of(limits: trpc.Limits) -> int:
    return max(limits.max_bytes_in_flight, limits.max_message_size + limits.max_calls * KiB)


class Target:
    """The server, and what it had before the attack."""

    def __init__(self, process, path):
        self.process = process
        self.path = path
        self.before = 0
        self.peers = []
        self.client: trpc.Client

    @property
    def peak(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KiB
        raise AssertionError("no VmHWM")

    @property
    def growth(self):
        return self.peak - self.before

    async def attacker(self):
        peer = RawPeer(await trio.open_unix_socket(self.path), max_message_size=2**40)
        peer.hello = type(peer.hello)(2**40, 10**6, 64, ("fragments", "streams"), 2**20)
        self.peers.append(peer)
        await peer.open()
        return peer

    async def until_running(self, number):
        """Also lets it read what was sent before, as it reads in turns."""
        with trio.fail_after(30):
            while await self.client.call("Memory.state") < number:
                pass
            for _ in range(20):
                await self.client.call("Memory.state")


@contextlib.asynccontextmanager
async def target(tmp_path, limits):
    path = tmp_path / "socket"
    given = {name: value for name, value in vars(limits).items() if value != getattr(trpc.Limits(), name)}
    async with python(SERVICE, path, json.dumps(given)) as (process, url, _):
        made = Target(process, str(path))
        async with trpc.connect(url) as made.client:
            await made.client.call("Memory.state")
            made.before = made.peak
            try:
                yield made
            finally:
                print(f"grew by {made.growth / MiB:.1f} MiB")
                for peer in made.peers:
                    await trio.aclose_forcefully(peer.stream)


def request(method, *args, streams=None):
    return joined(encode_request(f"Memory.{method}", list(args), None, None, None, streams, max_depth=64))


def bomb(method, size):
    head = b"\x92" + b"\xd9" + bytes([len(method) + 7]) + b"Memory." + method.encode() + b"\x91"
    return head + b"\xdd" + struct.pack(">I", size) + b"\x80" * size


@pytest.mark.parametrize("method", ["hold", "hold_typed"])
async def test_requests_of_empty_maps(tmp_path, method):
    limits = trpc.Limits(
        max_message_size=256 * KiB, max_bytes_in_flight=MiB, max_calls=50, max_server_bytes_in_flight=MiB
    )
    async with target(tmp_path, limits) as server:
        peers = [await server.attacker() for _ in range(3)]
        for call_id in range(1, 9):
            for peer in peers:
                await peer.send(Kind.REQUEST, call_id, bomb(method, 250 * KiB))
        await server.until_running(4)
        assert 20 * MiB < server.growth < room_of(limits) * GROWTH + 3 * CONNECTION + SLACK


@pytest.mark.parametrize("what", ["frames", "fragments"])
async def test_large_messages_of_which_half_has_come(tmp_path, what):
    limits = trpc.Limits(
        max_message_size=4 * MiB, max_bytes_in_flight=8 * MiB, max_calls=50, max_server_bytes_in_flight=16 * MiB
    )
    async with target(tmp_path, limits) as server:
        body = bytes(3 * MiB)
        data = encode_frame(Kind.REQUEST, 1, body + body[: MiB - 1])[: len(body)]
        for _ in range(40):
            peer = await server.attacker()
            if what == "frames":
                await peer.stream.send_all(data)
            else:
                for begin in range(0, len(body), 64 * KiB):
                    await peer.send(Kind.REQUEST, 1, body[begin : begin + 64 * KiB], flags=1 if begin == 0 else 3)
        await server.until_running(0)
        # The buffers of the messages grow in steps.
        assert server.growth < 2 * limits.max_server_bytes_in_flight + 40 * CONNECTION + SLACK


async def test_streams_full_of_small_items_and_one_large_one(tmp_path):
    limits = trpc.Limits(max_message_size=2 * MiB, stream_credit=64 * KiB, max_streams=16, max_calls=50)
    async with target(tmp_path, limits) as server:
        peer = await server.attacker()
        for call_id in range(1, limits.max_streams + 10):
            await peer.send(Kind.REQUEST, call_id, request("hold_stream", None, streams={1: 0}))
        for call_id in range(1, limits.max_streams + 1):
            items = encode_frame(Kind.ARGUMENT_ITEMS, call_id, b"\x91\x01", stream=1)
            await peer.stream.send_all(items * (limits.stream_credit // 18))
            large = bytes(MiB)
            await peer.send(Kind.ARGUMENT_ITEMS, call_id, b"\x91\xc6\x00\x1f\xff\x00" + large, stream=1, flags=1)
        await server.until_running(limits.max_streams)
        held = limits.max_streams * 8 * limits.stream_credit + 2 * limits.max_message_size
        assert server.growth < held + limits.max_calls * CALL + CONNECTION + SLACK


async def test_many_calls_that_wait(tmp_path):
    limits = trpc.Limits(max_calls=2000, max_message_size=MiB, max_bytes_in_flight=MiB)
    async with target(tmp_path, limits) as server:
        peer = await server.attacker()
        for first in range(1, 3001, 100):
            data = [encode_frame(Kind.REQUEST, first + i, request("hold")) for i in range(100)]
            await peer.stream.send_all(b"".join(data))
        await server.until_running(2000)
        assert server.growth < limits.max_calls * CALL + CONNECTION + SLACK


async def test_a_peer_that_never_reads(tmp_path):
    limits = trpc.Limits(max_unsent=MiB, max_calls=50, max_message_size=MiB, max_bytes_in_flight=MiB)
    size = 500 * KiB
    async with target(tmp_path, limits) as server:
        peer = await server.attacker()
        with trio.move_on_after(1):
            for call_id in range(1, 100_000):
                await peer.send(Kind.REQUEST, call_id, request("blob", size))
        await server.until_running(2)
        assert server.growth < limits.max_unsent + (limits.max_calls + 1) * size + CONNECTION + SLACK
