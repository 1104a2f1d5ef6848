"""Bodies of messages: each decoder raises what it documents and nothing else, and what it gives can be used."""

from __future__ import annotations

import math
import traceback

import trpc
from tests.fuzz.choices import Choices
from trpc import InvalidArguments, ProtocolError, RPCError, _codec
from trpc._exceptions import decode_error, decode_status, encode_exception, encode_status, is_after_cancel
from trpc._frames import Data
from trpc._messages import MAX_TIME_LEFT, Hello, decode_credit, decode_request, encode_credit, encode_request

MAX_LEN = 2048
MAX_DEPTH = 64


@trpc.exception(name="fuzz.OutOfPaper")
class OutOfPaper(Exception):
    tray: int
    sizes: list[str]

    def __init__(self, message: str, tray: int) -> None:
        super().__init__(message)
        self.tray = tray

    def refill(self) -> None:
        """No attribute may take its place."""


@trpc.exception(name="fuzz.NotThere")
class NotThere(FileNotFoundError):
    __slots__ = ("where",)


def _request(body: bytes) -> None:
    try:
        request = decode_request(body, max_depth=MAX_DEPTH)
    except InvalidArguments as exc:
        assert len(str(exc)) < 2000
        return
    time_left = request.time_left
    assert time_left is None or (math.isfinite(time_left) and time_left <= MAX_TIME_LEFT)
    again = _joined(encode_request(*request, max_depth=MAX_DEPTH))
    # None and nothing mean the same.
    assert repr([field or None for field in decode_request(again, max_depth=MAX_DEPTH)[2:]]) == repr(
        [field or None for field in request[2:]]
    ) or (time_left is not None and not time_left)


def _hello(body: bytes) -> None:
    try:
        hello = Hello.decode(body)
    except ProtocolError as exc:
        assert len(str(exc)) < 2000
        return
    assert min(hello.max_message_size, hello.max_calls, hello.max_depth) >= 1
    assert Hello.decode(hello.encode()) == hello


def _error(body: bytes) -> None:
    assert type(is_after_cancel(body, max_depth=MAX_DEPTH)) is bool
    exc = decode_error(body, max_depth=MAX_DEPTH)
    assert isinstance(exc, Exception)
    # It can be raised, shown and sent on.
    try:
        raise exc
    except Exception as raised:
        assert raised is exc
    exc.__traceback__ = None
    assert "".join(traceback.format_exception(exc))
    if type(exc) is OutOfPaper:
        exc.refill()
    try:
        again = encode_exception(exc, max_depth=MAX_DEPTH)
    except _codec.EncodeError:
        return
    assert isinstance(decode_error(again, max_depth=MAX_DEPTH), type(exc) | trpc.RemoteError)


def _status(body: bytes) -> None:
    make = decode_status(body, max_depth=MAX_DEPTH)
    exc = make()
    assert isinstance(exc, RPCError)
    assert make() is not exc
    decode_status(encode_status(exc), max_depth=1)()


def _credit(body: bytes) -> None:
    try:
        size = decode_credit(body)
    except ProtocolError:
        return
    assert 1 <= size < 2**32
    assert decode_credit(encode_credit(size)) == size


def _joined(data: Data) -> bytes:
    return data if isinstance(data, bytes) else b"".join(data)


DECODERS = [_request, _hello, _error, _status, _credit]


def run(data: bytes) -> None:
    choices = Choices(data)
    decode = DECODERS[choices.number() % len(DECODERS)]
    decode(choices.rest())
