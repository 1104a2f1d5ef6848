"""What the frames mean: the kinds, and the bodies of the messages that have one.

A frame's kind and id can be read although its body cannot, so a bad body fails one call and not the
connection. docs/wire-protocol.md is the specification of all that is here.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard, cast

from . import _codec
from ._errors import InvalidArguments, ProtocolError
from ._limits import MAX_SIZE, MIN_RATE
from ._share import size_of_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._frames import Data
    from ._limits import Limits

IGNORABLE: Final = 0x80
"""A kind with this bit may be ignored by a peer that does not know it."""


class Kind(enum.IntEnum):
    """Kinds of messages. The high nibble says who may send it: anyone, the caller, the callee.

    ``ARGUMENT_*`` are for streams from caller to callee, ``RESULT_*`` for the one from callee to caller.
    """

    HELLO = 0x01
    PING = 0x02
    PONG = 0x03
    GOAWAY = 0x04
    REQUEST = 0x10
    NOTIFY = 0x11
    CANCEL = 0x12
    ARGUMENT_ITEMS = 0x13
    ARGUMENT_END = 0x14
    RESULT_CREDIT = 0x15
    RESULT = 0x20
    ERROR = 0x21
    CANCELLED = 0x22
    EXPIRED = 0x23
    RESULT_ITEMS = 0x24
    ARGUMENT_CREDIT = 0x26
    ARGUMENT_STOP = 0x27


BODILESS: Final = frozenset({Kind.PING, Kind.PONG, Kind.CANCEL, Kind.CANCELLED, Kind.EXPIRED, Kind.ARGUMENT_STOP})
OF_ARGUMENTS: Final = frozenset({Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END, Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP})

# What this side supports beyond the base of the protocol, and says in its hello.
FRAGMENTS: Final = "fragments"
STREAMS: Final = "streams"

# What a message of a stream costs beside its body, so that many with one small item are bounded as well.
ITEMS_COST: Final = 16
MAX_CREDIT: Final = 2**63 - 1
# The end of an argument costs no credit, and what a producer has raised is not long.
MAX_END_SIZE: Final = 64 * 1024
NIL: Final = b"\xc0"
_MAX_GRANT: Final = 2**32 - 1
# Numbers of the argument streams of one call.
MAX_STREAM: Final = 2**16 - 1

# A year: nobody waits longer, and no arithmetic on a clock overflows.
MAX_TIME_LEFT: Final = 365 * 86400.0

# Entries of metadata. It is for a tenant, a trace id and the like; to look at a million takes a second.
MAX_METADATA: Final = 1000

MetadataValue = str | bytes | int | float | bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class Hello:
    """What each side says of itself before anything else. ``max_*`` are what it accepts."""

    max_message_size: int
    max_calls: int
    max_depth: int
    features: tuple[str, ...] = ()
    stream_credit: int | None = None
    control_burst: int | None = None
    control_rate: float | None = None
    max_bytes_in_flight: int | None = None
    # A secret: in no message, and in nothing that is kept.
    token: str | None = dataclasses.field(default=None, repr=False, compare=False)

    def encode(self) -> bytes:
        """Body of HELLO."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value}
        return _codec.pack(fields, max_depth=2)

    @property
    def has_fragments(self) -> bool:
        """Whether it takes large messages in fragments."""
        return FRAGMENTS in self.features

    @property
    def has_streams(self) -> bool:
        """Whether its calls may have streams."""
        return STREAMS in self.features

    @classmethod
    def of(cls, limits: Limits, token: str | None = None) -> Hello:
        """The hello that announces ``limits``, with the token if there is one."""
        has_rate = limits.control_rate != math.inf
        most = size_of_requests(limits)
        return cls(
            limits.max_message_size,
            limits.max_calls,
            limits.max_depth,
            (FRAGMENTS, STREAMS),
            limits.stream_credit,
            limits.control_burst if has_rate else None,
            limits.control_rate if has_rate else None,
            most if most < MAX_SIZE else None,
            token,
        )

    def without_token(self) -> Hello:
        """The same, to be kept."""
        return _shared(dataclasses.replace(self, token=None))

    @staticmethod
    def decode(body: bytes) -> Hello:
        """Reads the body of HELLO; unknown keys are for later versions and ignored.

        Most clients of a server say the same, and then share one object. One with a token is not kept.

        Raises:
            ProtocolError: not a map, or a limit is missing, not an integer or out of its range.
        """
        return (_decode_hello if b"token" in body else _decode_often)(body)


def _decode_hello(body: bytes) -> Hello:
    try:
        hello: Hello = _codec.convert(_codec.unpack(body, max_depth=8), Hello)
    except _codec.DecodeError as exc:
        raise ProtocolError(f"the peer's hello cannot be read: {exc}") from exc
    for name, value in dataclasses.asdict(hello).items():
        if isinstance(value, int) and value < 1:
            raise ProtocolError(f"the peer's hello announces a {name} of {value}")
    if hello.has_streams and not 1 <= (hello.stream_credit or 0) <= _MAX_GRANT:
        raise ProtocolError(f"the peer's hello announces streams with a stream_credit of {hello.stream_credit}")
    rate = hello.control_rate
    if (rate is None) != (hello.control_burst is None) or (rate is not None and not MIN_RATE <= rate < math.inf):
        raise ProtocolError(f"the peer's hello announces a control_burst of {hello.control_burst}, at {rate} a second")
    return hello


_decode_often: Final = functools.lru_cache(maxsize=32)(_decode_hello)


@functools.lru_cache(maxsize=32)
def _shared(hello: Hello) -> Hello:
    """One that is equal."""
    return hello


# Bodies up to this size never end a connection, whatever the receiver's limit is: requests sent before
# the receiver's hello has arrived, and the errors that say that something else was too large.
ALWAYS_ACCEPTED: Final = 16 * 1024

# What may be sent before the peer's hello has arrived. One call at a time costs nothing: the hello is
# there before the first reply is.
UNTIL_HELLO: Final = Hello(
    max_message_size=ALWAYS_ACCEPTED, max_calls=1, max_depth=64, control_burst=1, control_rate=MIN_RATE
)


class Request(NamedTuple):
    """Body of REQUEST and NOTIFY."""

    method: str
    args: list[Any]
    kwargs: dict[str, Any] | None
    time_left: float | None
    metadata: dict[str, MetadataValue] | None
    streams: dict[int, int | str] | None
    """The arguments that are streams: number of the stream to position or keyword of the argument."""


# As of frames: half the time of Request(...).
_new_request: Final = cast("Callable[[type[Request], tuple[Any, ...]], Request]", cast("Any", tuple).__new__)


def encode_request(
    method: str,
    args: Sequence[object],
    kwargs: Mapping[str, object] | None,
    time_left: float | None,
    metadata: Mapping[str, MetadataValue] | None,
    streams: Mapping[int, int | str] | None = None,
    *,
    max_depth: int,
) -> Data:
    """Body of REQUEST or NOTIFY; elements at the end that are None are left out.

    Args:
        method: as all others, see :class:`Request`.
        args: those that are streams are None in their places.
        kwargs: the same.
        time_left: in seconds.
        metadata: None or empty if there is none.
        streams: None or empty if there are none.
        max_depth: nesting that the receiver accepts.

    Raises:
        EncodeError: an argument cannot be encoded.
    """
    fields: list[object] = [method, args]
    if kwargs or time_left is not None or metadata or streams:
        # Keys of maps are text.
        numbered = {str(number): place for number, place in streams.items()} if streams else None
        fields += [kwargs or None, time_left, metadata or None, numbered]
        while fields[-1] is None:
            fields.pop()
    for argument in args:
        if type(argument) is bytes and len(argument) >= _codec.LARGE:
            return _codec.pack_scattered(fields, max_depth=max_depth)
    return _codec.pack(fields, max_depth=max_depth)


def decode_request(body: bytes | memoryview, *, max_depth: int) -> Request:
    """Reads the body of REQUEST or NOTIFY.

    Raises:
        InvalidArguments: it cannot be read; the call fails, the connection does not.
    """
    try:
        fields: Any = _codec.unpack(body, max_depth=max_depth)
    except _codec.DecodeError as exc:
        raise InvalidArguments(f"the request cannot be decoded: {exc}") from exc
    if not _is_array(fields) or len(fields) < 2:
        raise InvalidArguments("a request is an array of a method's name, its arguments and options")
    method, args = fields[0], fields[1]
    kwargs = time_left = metadata = streams = None
    if len(fields) > 2:
        # Elements beyond the known ones come from later versions and are ignored.
        kwargs, time_left, metadata, streams = [*fields[2:6], None, None, None][:4]
    if type(method) is not str:
        raise InvalidArguments("the method's name must be a string")
    if not _is_array(args):
        raise InvalidArguments("the positional arguments must be an array")
    if kwargs is not None and not _has_text_keys(kwargs):
        raise InvalidArguments("the keyword arguments must be a map with strings as keys")
    if metadata is not None:
        _check_metadata(metadata)
    if time_left is not None:
        time_left = _check_time_left(time_left)
    if streams is not None:
        streams = _check_streams(streams, args, kwargs or {})
    return _new_request(Request, (method, args, kwargs, time_left, metadata, streams))


def is_metadata_value(value: object) -> bool:
    """Whether ``value`` may be a value of metadata."""
    return value is None or type(value) in {str, bytes, int, float, bool}


def _check_metadata(metadata: object) -> None:
    entries = cast("dict[object, object]", metadata) if isinstance(metadata, dict) else None
    if entries is not None and len(entries) > MAX_METADATA:
        raise InvalidArguments(f"metadata has more than {MAX_METADATA} entries")
    if not (_has_text_keys(entries) and all(map(is_metadata_value, entries.values()))):
        raise InvalidArguments("metadata must be a map from strings to scalars")


def _is_array(value: object) -> TypeGuard[list[Any]]:
    return type(value) is list


def _has_text_keys(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and all(isinstance(key, str) for key in cast("dict[object, object]", value))


def _check_time_left(value: object) -> float:
    """Refuses what is not a time, and clamps what is longer than anybody lives."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InvalidArguments(f"the time left must be a finite number of seconds, not {value!r}")
    return min(float(value), MAX_TIME_LEFT)


def _check_streams(value: object, args: list[Any], kwargs: dict[str, Any]) -> dict[int, int | str]:
    """Which arguments are streams, if each of them is there, once, and nil in its place."""
    if not _has_text_keys(value):
        raise InvalidArguments("the streams must be a map from their numbers to arguments")
    streams: dict[int, int | str] = {}
    place: Any
    for text, place in value.items():
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_STREAM)) else 0
        if not 1 <= number <= MAX_STREAM or text != str(number):
            raise InvalidArguments(f"{text[:20]!r} is not the number of a stream")
        among: Any = kwargs if type(place) is str else args
        if not (place in kwargs if among is kwargs else type(place) is int and 0 <= place < len(args)):
            raise InvalidArguments(f"stream {number} is for an argument that is not there")
        if among[place] is not None:
            raise InvalidArguments(f"stream {number} is for an argument that is not nil in its place")
        streams[number] = place
    if len(set(streams.values())) < len(streams):
        raise InvalidArguments("two streams are for the same argument")
    return streams


def encode_credit(size: int) -> bytes:
    """Body of a grant of so many bytes."""
    return _codec.pack(size, max_depth=0)


def decode_credit(body: bytes | memoryview) -> int:
    """Reads it.

    Raises:
        ProtocolError: it is not a number in its range.
    """
    try:
        size = _codec.unpack(body, max_depth=0)
    except _codec.DecodeError as exc:
        raise ProtocolError(f"the credit of a stream cannot be read: {exc}") from exc
    if type(size) is not int or not 1 <= size <= _MAX_GRANT:
        raise ProtocolError("the credit of a stream is not a number from 1 to 2^32-1")
    return size
