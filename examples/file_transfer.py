"""Large files as streams of chunks: constant memory, a checksum, and a transfer that was cut goes on where it was.

* ``python -m examples.file_transfer`` shows it: a server as a process of its own, a file of 64 MiB up and down, and
  each time the connection is cut in the middle; ``--size MIB`` for another size
* ``python -m examples.file_transfer serve FOLDER [PORT]`` serves a folder until Ctrl-C, and prints its URL
* ``python -m examples.file_transfer upload URL FILE``
* ``python -m examples.file_transfer download URL NAME [FOLDER]``

What has arrived of a file is in ``NAME.part`` until its checksum is right; a file that is there is never overwritten.
Whoever can connect can fill the disk: put no such server where strangers reach it.
"""

import contextlib
import functools
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path, PureWindowsPath
from typing import Annotated

import msgspec
import trio

import trpc

MIB = 1024 * 1024
CHUNK = 256 * 1024
ATTEMPTS = 8
"""Connections in a row that bring nothing, after which a transfer is given up."""
FIRST_PAUSE = 0.1
"""Seconds before the second attempt; doubled for each one after it."""

Offset = Annotated[int, msgspec.Meta(ge=0)]
Advance = Callable[[int], None]
"""Told how many bytes more are through."""
Connect = Callable[[], AbstractAsyncContextManager[trpc.Client]]


class Files:
    """The service: the files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uploads: dict[Path, tuple[trio.CancelScope, trio.Event]] = {}

    @trpc.method
    async def received(self, name: str) -> int:
        """How many bytes of an upload are here: where it goes on."""
        path = place(self._folder, name)
        await self._end_upload(path)
        return await trio.to_thread.run_sync(bytes_here, path)

    @trpc.method
    async def upload(self, name: str, offset: Offset, chunks: AsyncIterable[bytes]) -> None:
        path = place(self._folder, name)
        await self._end_upload(path)
        ended = trio.Event()
        with trio.CancelScope() as scope:
            self._uploads[path] = scope, ended
            try:
                await write(path, offset, chunks)
            finally:
                del self._uploads[path]
                ended.set()
        if scope.cancelled_caught:
            raise InterruptedError(f"another upload of {name} has begun")

    @trpc.method
    async def finish(self, name: str, checksum: str) -> None:
        """All of an upload is here: compares the checksum."""
        path = place(self._folder, name)
        await self._end_upload(path)
        await trio.to_thread.run_sync(complete, path, checksum)

    async def _end_upload(self, path: Path) -> None:
        """Of two uploads the later one counts: its client has lost the earlier, which nobody may have noticed here."""
        while path in self._uploads:
            scope, ended = self._uploads[path]
            scope.cancel()
            await ended.wait()

    @trpc.method(in_thread=True)
    def size(self, name: str) -> int:
        return self._existing(name).stat().st_size

    @trpc.method
    def download(self, name: str, offset: Offset) -> AsyncIterator[bytes]:
        return read(self._existing(name), offset)

    @trpc.method(in_thread=True)
    def checksum(self, name: str) -> str:
        return checksum_of(self._existing(name))

    def _existing(self, name: str) -> Path:
        path = place(self._folder, name)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {name!r}")
        return path


# --- files, the same on both sides ---


def place(folder: Path, name: str) -> Path:
    """Where a file is. No name leads out of the folder, or to a file that is not complete.

    Raises:
        ValueError: it is not a plain name.
    """
    # Windows knows all separators that there are.
    plain = name == PureWindowsPath(name).name and name.isprintable()
    if not plain or not name or name.startswith(".") or name.endswith(".part"):
        raise ValueError(f"not the plain name of a file: {name!r}")
    return folder / name


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def bytes_here(path: Path) -> int:
    for file in path, part_of(path):
        with contextlib.suppress(FileNotFoundError):
            return file.stat().st_size
    return 0


async def read(path: Path, offset: int, advance: Advance | None = None) -> AsyncGenerator[bytes, None]:
    """The file's chunks. Each is read when there is room for it on the way: that is what bounds the memory."""
    async with await trio.open_file(path, "rb") as file:
        await file.seek(offset)
        while chunk := await file.read(CHUNK):
            yield chunk
            if advance is not None:
                advance(len(chunk))


async def write(path: Path, offset: int, chunks: AsyncIterable[bytes], advance: Advance | None = None) -> None:
    """Adds the chunks to what is here. Whatever ends it, those that it took are in the file.

    Raises:
        FileExistsError: the file is complete.
        ValueError: what is here does not end at ``offset``.
    """
    if await trio.Path(path).exists():
        raise FileExistsError(f"there is a file {path.name!r} already")
    async with await trio.open_file(part_of(path), "ab") as file:
        if await file.tell() != offset:
            raise ValueError(f"{path.name} goes on at {await file.tell()}, not at {offset}")
        async for chunk in chunks:
            await file.write(chunk)
            if advance is not None:
                advance(len(chunk))


def checksum_of(path: Path) -> str:
    """Blocks: to be called in a thread of Trio's. Cancelled: stops at the next chunk."""
    result = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            trio.from_thread.check_cancelled()
            result.update(chunk)
    return result.hexdigest()


def complete(path: Path, checksum: str) -> None:
    """Gives a file that has arrived its name. Blocks, as above.

    Raises:
        FileExistsError: there is another one of that name.
        OSError: it is not what was sent; the next transfer begins anew.
    """
    if path.exists():
        if checksum_of(path) != checksum:
            raise FileExistsError(f"there is another file {path.name!r} already")
        return
    part = part_of(path)
    part.touch()  # nothing arrives of an empty file
    if checksum_of(part) != checksum:
        part.unlink()
        raise OSError(f"{path.name} has arrived damaged, or has changed meanwhile")
    part.rename(path)


# --- the client ---


class Bar:
    """A progress bar. Where that is no terminal: a line for each tenth."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._is_terminal = sys.stdout.isatty()
        self._shown = -1
        self.done = self.total = 0

    def begin(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self._shown = -1
        self.advance(0)

    def advance(self, count: int) -> None:
        self.done += count
        steps = 50 if self._is_terminal else 10
        step = steps * self.done // self.total if self.total else steps
        if step > self._shown:
            self._shown = step
            text = f"{self._label} [{'#' * step:<{steps}}] {self.done / MIB:.1f} of {self.total / MIB:.1f} MiB"
            # On a terminal, one line that is written again and again.
            before, after = ("\r", "" if step < steps else "\n") if self._is_terminal else ("", "\n")
            print(f"{before}{text}", end=after, flush=True)

    def interrupt(self, text: str) -> None:
        print(f"\n{text}" if self._is_terminal else text, flush=True)


async def upload(connect: Connect, path: Path, bar: Bar) -> str:
    """Gives the checksum."""
    total = (await trio.Path(path).stat()).st_size

    async def go_on(files: Files) -> str:
        offset = await files.received(path.name)
        bar.begin(offset, total)
        if offset < total:
            await files.upload(path.name, offset, read(path, offset, bar.advance))
        checksum = await trio.to_thread.run_sync(checksum_of, path)
        await files.finish(path.name, checksum)
        return checksum

    return await insist(connect, go_on, bar)


async def download(connect: Connect, name: str, folder: Path, bar: Bar) -> str:
    """Gives the checksum."""
    path = place(folder, name)

    async def go_on(files: Files) -> str:
        total = await files.size(name)
        offset = await trio.to_thread.run_sync(bytes_here, path)
        bar.begin(offset, total)
        if offset < total:
            async with files.download(name, offset) as chunks:
                await write(path, offset, chunks, bar.advance)
        checksum = await files.checksum(name)
        await trio.to_thread.run_sync(complete, path, checksum)
        return checksum

    return await insist(connect, go_on, bar)


async def insist(connect: Connect, transfer: Callable[[Files], Awaitable[str]], bar: Bar) -> str:
    """Makes a transfer. Whenever the connection is lost, connects again, and the transfer goes on."""
    failures = 0
    while True:
        before = bar.done
        try:
            async with connect() as client:
                return await transfer(client.proxy(Files))
        except (trpc.ConnectionLost, trpc.Unavailable) as exc:
            failures = 1 if bar.done > before else failures + 1
            # Where nobody listens from the beginning, the URL is wrong.
            if failures == ATTEMPTS or (isinstance(exc, trpc.Unavailable) and not bar.total):
                raise
            bar.interrupt(f"{exc}: connecting again")
        await trio.sleep(FIRST_PAUSE * 2 ** (failures - 1))


# --- the programs ---


async def serve(folder: Path, port: int = 0) -> None:
    """Serves until SIGINT or SIGTERM; the first line on stdout is the URL."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server: trpc.Server = await nursery.start(trpc.serve_tcp, Files(folder), port)
            print(server.url, flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()
    print("peak memory of the server:", peak_memory(), flush=True)


def peak_memory() -> str:
    status = Path("/proc/self/status")  # of Linux
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return f"{int(found[1]) / 1024:.0f} MiB" if found else "unknown"


async def demonstrate(size: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        source, there, back = (Path(temporary, name) for name in ("file", "there", "back"))
        there.mkdir()
        back.mkdir()
        await trio.to_thread.run_sync(make_file, source, size)
        async with trio.open_nursery() as nursery:
            command = [sys.executable, __file__, "serve", str(there)]
            start = functools.partial(trio.run_process, command, stdout=subprocess.PIPE)
            server: trio.Process = await nursery.start(start)
            assert server.stdout is not None
            url = b""
            while not url.endswith(b"\n"):
                url += await server.stdout.receive_some(1)
            for label in "up", "down":
                bar = BadNetwork(label, url.decode().strip())
                if label == "up":
                    print("checksum:", await upload(bar.connect, source, bar), flush=True)
                else:
                    print("checksum:", await download(bar.connect, source.name, back, bar), flush=True)
            server.terminate()
            async for words in server.stdout:
                print(words.decode(), end="")
    print("peak memory of the client:", peak_memory())


def make_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))


class BadNetwork(Bar):
    """A bar that cuts the connection when half of the file is through, once."""

    def __init__(self, label: str, url: str) -> None:
        super().__init__(label)
        self._host, self._port = url.removeprefix("tcp://").split(":")
        self._stream: trio.SocketStream
        self._has_cut = False

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[trpc.Client, None]:
        self._stream = await trio.open_tcp_stream(self._host, int(self._port))
        async with trpc.connect_stream(self._stream) as client:
            yield client

    def advance(self, count: int) -> None:
        super().advance(count)
        if self.done >= self.total / 2 and not self._has_cut:
            self._has_cut = True
            self._stream.socket.shutdown(socket.SHUT_RDWR)


def main() -> None:
    code: int | str = 0
    try:
        match sys.argv[1:]:
            case []:
                trio.run(demonstrate, 64 * MIB)
            case ["--size", mib]:
                trio.run(demonstrate, int(mib) * MIB)
            case ["serve", folder]:
                trio.run(serve, Path(folder))
            case ["serve", folder, port]:
                trio.run(serve, Path(folder), int(port))
            case ["upload", url, file]:
                print("checksum:", trio.run(upload, functools.partial(trpc.connect, url), Path(file), Bar("up")))
            case ["download", url, name, *folder]:
                connect = functools.partial(trpc.connect, url)
                print("checksum:", trio.run(download, connect, name, Path(*folder), Bar("down")))
            case _:
                sys.exit(__doc__)
    except* KeyboardInterrupt:
        code = 130
    except* (trpc.RPCError, OSError, ValueError) as group:
        code = f"error: {group.exceptions[0]}"
    sys.exit(code)


if __name__ == "__main__":
    main()
