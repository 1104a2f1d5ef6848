"""Bodies of the messages: what a hello and a request must and may be."""

import dataclasses
import math
import re

import msgpack
import pytest
from support import joined

from trpc import InvalidArguments, Limits, ProtocolError
from trpc._codec import LARGE, EncodeError, pack
from trpc._messages import (
    ALWAYS_ACCEPTED,
    IGNORABLE,
    ITEMS_COST,
    MAX_STREAM,
    MAX_TIME_LEFT,
    UNTIL_HELLO,
    Hello,
    Kind,
    Request,
    decode_credit,
    decode_request,
    encode_credit,
    encode_request,
    is_metadata_value,
)

HELLO = {"max_message_size": 1000, "max_calls": 10, "max_depth": 5}


def test_kinds_on_the_wire():
    assert {kind.name: int(kind) for kind in Kind} == {
        "HELLO": 0x01,
        "PING": 0x02,
        "PONG": 0x03,
        "GOAWAY": 0x04,
        "REQUEST": 0x10,
        "NOTIFY": 0x11,
        "CANCEL": 0x12,
        "ARGUMENT_ITEMS": 0x13,
        "ARGUMENT_END": 0x14,
        "RESULT_CREDIT": 0x15,
        "RESULT": 0x20,
        "ERROR": 0x21,
        "CANCELLED": 0x22,
        "EXPIRED": 0x23,
        "RESULT_ITEMS": 0x24,
        "ARGUMENT_CREDIT": 0x26,
        "ARGUMENT_STOP": 0x27,
    }
    assert not any(kind & IGNORABLE for kind in Kind)


# --- hello ---


def test_hello_round_trip():
    assert Hello.decode(Hello(1000, 10, 5).encode()) == Hello(1000, 10, 5)


def test_hello_on_the_wire():
    assert msgpack.unpackb(Hello(1000, 10, 5).encode()) == HELLO


def test_hello_of_limits():
    limits = Limits(max_message_size=1, max_calls=2, max_depth=3, stream_credit=4, control_burst=5, control_rate=0.5)
    most = 64 * 2**20
    assert Hello.of(limits) == Hello(1, 2, 3, ("fragments", "streams"), 4, 5, 0.5, most)
    # One message fits in any case, and a KiB of each call.
    for bytes_, size, calls in ((10, 100, 2), (10, 1, 3)):
        small = Limits(max_message_size=size, max_calls=calls, max_bytes_in_flight=bytes_)
        assert Hello.of(small).max_bytes_in_flight == size + 1024 * calls
    # What has no bound is not announced.
    unbounded = dataclasses.replace(limits, control_rate=math.inf, max_bytes_in_flight=2**31)
    assert Hello.of(unbounded) == Hello(1, 2, 3, ("fragments", "streams"), 4)
    hello = Hello.of(Limits())
    assert hello == Hello(16 * 2**20, 1000, 64, ("fragments", "streams"), Limits().stream_credit, 1000, 100.0, most)
    assert Hello.decode(hello.encode()) == hello


def test_hello_with_features_on_the_wire():
    assert msgpack.unpackb(Hello(1000, 10, 5, ("fragments", "streams"), 7).encode()) == {
        **HELLO,
        "features": ["fragments", "streams"],
        "stream_credit": 7,
    }


def test_unknown_keys_of_a_hello_are_for_later_versions():
    assert Hello.decode(msgpack.packb({**HELLO, "later": ["streams", {"a": [1]}]})) == Hello(1000, 10, 5)


@pytest.mark.parametrize(
    ("features", "has_fragments", "has_streams"),
    [
        ([], False, False),
        (["later"], False, False),
        (["fragments"], True, False),
        (["streams"], False, True),
        (["streams", "fragments", "streams"], True, True),
        (["", "streams ", "Fragments"], False, False),
    ],
)
def test_features(features, has_fragments, has_streams):
    hello = Hello.decode(msgpack.packb({**HELLO, "features": features, "stream_credit": 100}))
    assert (hello.has_fragments, hello.has_streams) == (has_fragments, has_streams)


@pytest.mark.parametrize(
    "features", [None, "streams", 1, {"streams": 1}, [1], ["streams", None], [["streams"]], [b"x"]]
)
def test_features_are_a_list_of_text(features):
    with pytest.raises(ProtocolError, match="the peer's hello cannot be read: Expected .*features"):
        Hello.decode(msgpack.packb({**HELLO, "features": features, "stream_credit": 100}))


def test_without_features_there_are_none():
    assert not UNTIL_HELLO.has_fragments
    assert not UNTIL_HELLO.has_streams
    assert not Hello.decode(msgpack.packb(HELLO)).has_streams


@pytest.mark.parametrize("credit", [1, 2**32 - 1])
def test_streams_come_with_their_credit(credit):
    assert Hello.decode(Hello(1, 1, 1, ("streams",), credit).encode()).stream_credit == credit


@pytest.mark.parametrize("fields", [{}, {"stream_credit": None}, {"stream_credit": 2**32}])
def test_streams_without_a_credit_are_refused(fields):
    with pytest.raises(ProtocolError, match="announces streams with a stream_credit of"):
        Hello.decode(msgpack.packb({**HELLO, "features": ["streams"], **fields}))


@pytest.mark.parametrize("features", [[], ["streams"], ["fragments"]])
@pytest.mark.parametrize("credit", [0, -1, -(2**63)])
def test_the_credit_of_streams_is_positive(features, credit):
    with pytest.raises(ProtocolError, match=f"announces a stream_credit of {credit}"):
        Hello.decode(msgpack.packb({**HELLO, "features": features, "stream_credit": credit}))


@pytest.mark.parametrize("credit", ["1", 1.5, [], True])
def test_the_credit_of_streams_is_an_integer(credit):
    with pytest.raises(ProtocolError, match="cannot be read: Expected `int.*stream_credit"):
        Hello.decode(msgpack.packb({**HELLO, "features": ["streams"], "stream_credit": credit}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x01",
        b"\x90",
        b"\x80",
        b"\x83",
        b"\xdf\xff\xff\xff\xff",
        msgpack.packb(HELLO) + b"\x00",
        msgpack.packb(list(HELLO.values())),
        msgpack.packb({**HELLO, "deep": [[[[[[[[[1]]]]]]]]]}),
        msgpack.packb({**HELLO, 1: 1}),
        msgpack.packb({**HELLO, "x": msgpack.Timestamp(1)}),
        b"\x91" * 100_000,
    ],
    ids=lambda body: body[:20].hex(),
)
def test_a_hello_that_cannot_be_read_is_a_protocol_error(body):
    with pytest.raises(ProtocolError, match="the peer's hello cannot be read"):
        Hello.decode(body)


@pytest.mark.parametrize("field", HELLO)
@pytest.mark.parametrize("value", [None, "10", 1.5, True, [], {}, b"1", math.nan])
def test_each_limit_of_a_hello_is_an_integer(field, value):
    with pytest.raises(ProtocolError, match=f"cannot be read: Expected `int`.*{field}"):
        Hello.decode(msgpack.packb({**HELLO, field: value}))


@pytest.mark.parametrize("field", HELLO)
def test_each_limit_of_a_hello_is_required(field):
    with pytest.raises(ProtocolError, match=f"missing required field `{field}`"):
        Hello.decode(msgpack.packb({key: value for key, value in HELLO.items() if key != field}))


@pytest.mark.parametrize("field", HELLO)
@pytest.mark.parametrize("value", [0, -1, -(2**63)])
def test_each_limit_of_a_hello_is_positive(field, value):
    with pytest.raises(ProtocolError, match=f"announces a {field} of {value}"):
        Hello.decode(msgpack.packb({**HELLO, field: value}))


@pytest.mark.parametrize(
    "fields",
    [
        {"control_burst": 10},
        {"control_rate": 1.0},
        {"control_burst": 10, "control_rate": 0},
        {"control_burst": 10, "control_rate": -1},
        {"control_burst": 10, "control_rate": math.nan},
        {"control_burst": 10, "control_rate": math.inf},
    ],
)
def test_a_rate_is_whole_and_above_zero(fields):
    with pytest.raises(ProtocolError, match="announces a control_burst of .* a second"):
        Hello.decode(msgpack.packb({**HELLO, **fields}))


@pytest.mark.parametrize("rate", [1, 0.001, 1e300])
def test_a_rate_may_be_any_other_number(rate):
    hello = Hello.decode(msgpack.packb({**HELLO, "control_burst": 10, "control_rate": rate}))
    assert (hello.control_burst, hello.control_rate) == (10, rate)


@pytest.mark.parametrize("value", [1, 2**64 - 1])
def test_the_least_and_the_largest_limits_are_accepted(value):
    assert Hello.decode(Hello(value, value, value).encode()) == Hello(value, value, value)


def test_what_every_peer_accepts_fits_the_defaults():
    assert UNTIL_HELLO.max_message_size == ALWAYS_ACCEPTED == 16 * 1024
    assert UNTIL_HELLO.max_depth <= Limits().max_depth


def test_clients_that_say_the_same_share_one_object():
    one = Hello.decode(Hello(1000, 10, 5).encode())
    assert Hello.decode(Hello(1000, 10, 5).encode()) is one


def test_a_hello_that_was_refused_is_refused_again():
    for _ in range(2):
        with pytest.raises(ProtocolError):
            Hello.decode(msgpack.packb({**HELLO, "max_calls": 0}))


# --- requests ---


def decode(body, max_depth=64):
    return decode_request(body, max_depth=max_depth)


def encode(*args, **options):
    return joined(encode_request(*args, **{"max_depth": 64, **options}))


def test_request_round_trip():
    request = Request("A.b", [1, None, [b"y"]], {"k": {"a": None}, "s": None}, 1.5, {"n": 1}, {1: 1, 2: "s"})
    assert decode(encode(*request)) == request


@pytest.mark.parametrize(
    ("fields", "elements"),
    [
        (("m", [], None, None, None), ["m", []]),
        (("m", [], {}, None, {}), ["m", []]),
        (("m", [1], {"a": 1}, None, None), ["m", [1], {"a": 1}]),
        (("m", [1], None, 2.0, None), ["m", [1], None, 2.0]),
        (("m", [1], None, None, {"a": 1}), ["m", [1], None, None, {"a": 1}]),
        (("m", [1], None, None, None, {}), ["m", [1]]),
        (("m", [None], None, None, None, {1: 0}), ["m", [None], None, None, None, {"1": 0}]),
        (("m", [], {"k": None}, None, None, {9: "k"}), ["m", [], {"k": None}, None, None, {"9": "k"}]),
    ],
)
def test_what_is_none_at_the_end_is_left_out(fields, elements):
    assert msgpack.unpackb(encode(*fields)) == elements
    method, args, kwargs, time_left, metadata, *streams = fields
    expected = Request(method, args, kwargs or None, time_left, metadata or None, (streams or [None])[0] or None)
    assert decode(encode(*fields)) == expected


def test_arguments_may_be_a_tuple():
    assert decode(encode("m", (1, 2), None, None, None)).args == [1, 2]


LARGE_ARGUMENTS = [
    ("m", [bytes(LARGE)], None, None, None),
    ("m", [1, bytes(LARGE), "x", bytes(2 * LARGE)], None, 1.5, {"tenant": "t"}),
    ("m", (bytes(LARGE),), {"k": bytes(LARGE)}, None, None),
    ("m", [[bytes(LARGE)], bytes(LARGE)], None, None, None),
    ("m", [], {"k": bytes(LARGE)}, None, None),
]


@pytest.mark.parametrize("fields", LARGE_ARGUMENTS, ids=range(len(LARGE_ARGUMENTS)))
def test_large_arguments_come_back(fields):
    method, args, kwargs, time_left, metadata = fields
    assert decode(encode(*fields)) == Request(method, list(args), kwargs, time_left, metadata, None)
    rest = [kwargs, time_left, metadata]
    while rest and rest[-1] is None:
        rest.pop()
    assert encode(*fields) == msgpack.packb([method, args, *rest])


def test_large_arguments_are_not_copied():
    large = bytes(LARGE)
    pieces = encode_request("m", [1, large], None, None, None, max_depth=64)
    assert any(piece is large for piece in pieces)


@pytest.mark.parametrize("bad", [2**64, object(), [[[1]]]])
def test_an_argument_that_cannot_be_sent_beside_a_large_one(bad):
    with pytest.raises(EncodeError):
        encode("m", [bytes(LARGE), bad], None, None, None, max_depth=3)


def test_keys_of_arguments():
    with pytest.raises(EncodeError):
        encode("m", [{1: "a"}], None, None, None)
    assert decode(encode("m", [{"1": "a"}], None, None, None)).args == [{"1": "a"}]


def test_the_depth_of_the_receiver_is_obeyed():
    with pytest.raises(EncodeError, match="nested deeper than 3"):
        encode("m", [[[1]]], None, None, None, max_depth=3)


def test_elements_beyond_the_known_ones_are_ignored():
    body = msgpack.packb(["m", [1], None, None, None, None, "later", {"even": "later"}])
    assert decode(body) == Request("m", [1], None, None, None, None)


@pytest.mark.parametrize("number", range(2, 7))
def test_elements_that_are_left_out_are_as_nil(number):
    body = msgpack.packb(["m", [1], None, None, None, None][:number])
    assert decode(body) == Request("m", [1], None, None, None, None)


MALFORMED = {
    "": "cannot be decoded",
    "c1": "cannot be decoded",
    "92a16d": "cannot be decoded",
    "92a16d9000": "cannot be decoded",
    "92a1ff90": "cannot be decoded",
    "92a16ddfffffffff": "cannot be decoded",
    "92a16d91d4056100": "cannot be decoded",
    "92a16d91810102": "cannot be decoded",
    "92a16d91d6ff00000000": "cannot be decoded",
    "92a16d" + "91" * 64 + "01": "nested deeper than 64",
    "92a16d" + "91" * 100_000: "cannot be decoded",
    "c0": "a request is an array",
    "80": "a request is an array",
    "a16d": "a request is an array",
    "90": "a request is an array",
    "91a16d": "a request is an array",
    "920190": "the method's name must be a string",
    "92c090": "the method's name must be a string",
    "92c4016d90": "the method's name must be a string",
    "92a16dc0": "the positional arguments must be an array",
    "92a16d80": "the positional arguments must be an array",
    "92a16da161": "the positional arguments must be an array",
    "93a16d9090": "the keyword arguments must be a map",
    "93a16d90c2": "the keyword arguments must be a map",
    "93a16d9081c4016101": "the keyword arguments must be a map with strings as keys",
    "94a16d90c0a131": "the time left must be a finite number",
    "94a16d90c0c3": "the time left must be a finite number of seconds, not True",
    "94a16d90c090": "the time left must be a finite number",
    "95a16d90c0c090": "metadata must be a map",
    "95a16d90c0c081c4016101": "metadata must be a map from strings",
    "95a16d90c0c081a16190": "metadata must be a map from strings to scalars",
    "95a16d90c0c081a16180": "metadata must be a map from strings to scalars",
    "96a16d90c0c0c090": "the streams must be a map",
    "96a16d90c0c0c0a131": "the streams must be a map",
    "96a16d90c0c0c001": "the streams must be a map",
    "96a16d90c0c0c081c4013100": "the streams must be a map",
}


@pytest.mark.parametrize(("body", "message"), MALFORMED.items(), ids=[key[:30] for key in MALFORMED])
def test_a_request_that_cannot_be_read_is_invalid_arguments(body, message):
    with pytest.raises(InvalidArguments, match=re.escape(message)):
        decode(bytes.fromhex(body))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_time_left_that_is_not_finite_is_refused(value):
    with pytest.raises(InvalidArguments, match=f"not {value}"):
        decode(msgpack.packb(["m", [], None, value]))


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (0, 0.0),
        (-1, -1.0),
        (-1e300, -1e300),
        (2, 2.0),
        (1e-9, 1e-9),
        (MAX_TIME_LEFT, MAX_TIME_LEFT),
        (MAX_TIME_LEFT + 1, MAX_TIME_LEFT),
        (1e300, MAX_TIME_LEFT),
        (2**64 - 1, MAX_TIME_LEFT),
        (-(2**63), -float(2**63)),
    ],
)
def test_a_finite_time_left_is_taken_and_clamped(sent, read):
    time_left = decode(msgpack.packb(["m", [], None, sent])).time_left
    assert time_left == read
    assert type(time_left) is float


@pytest.mark.parametrize("value", ["s", b"b", 1, -1, 1.5, True, False, None])
def test_scalars_are_metadata(value):
    assert is_metadata_value(value)
    assert decode(encode("m", [], None, None, {"k": value})).metadata == {"k": value}


@pytest.mark.parametrize("value", [[], {}, (), set(), object(), 1j])
def test_other_values_are_not_metadata(value):
    assert not is_metadata_value(value)


# --- which arguments are streams ---


def request_with(streams, args=(None, None, 5), kwargs=None):
    return decode(msgpack.packb(["m", list(args), kwargs, None, None, streams]))


@pytest.mark.parametrize(
    ("streams", "kwargs"),
    [({}, None), ({1: 0}, None), ({1: 1, 2: 0}, None), ({65535: 1, 7: "k", 300: ""}, {"k": None, "": None, "x": 1})],
)
def test_streams_come_back(streams, kwargs):
    request = request_with({str(number): place for number, place in streams.items()}, kwargs=kwargs)
    assert request.streams == streams
    # An item of that number is looked up by an integer.
    assert all(type(number) is int for number in request.streams)


@pytest.mark.parametrize(
    "number",
    [
        "",
        "0",
        "01",
        "+1",
        "-1",
        "1 ",
        " 1",
        "1.0",
        "1e3",
        "0x1",
        "65536",
        "99999",
        "100000",
        "1" * 1000,
        "a",
        "\u0661",
        "\u00b9",
        "1_0",
    ],
)
def test_numbers_of_streams_have_one_form(number):
    with pytest.raises(InvalidArguments, match="is not the number of a stream") as caught:
        request_with({number: 0})
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("place", [3, -1, -3, 2**63, "missing", "0", b"k", 0.0, True, None, [], {}])
@pytest.mark.parametrize("kwargs", [None, {}, {"k": None}])
def test_a_stream_is_for_an_argument_that_is_there(place, kwargs):
    with pytest.raises(InvalidArguments, match="stream 1 is for an argument that is not there"):
        request_with({"1": place}, kwargs=kwargs)


@pytest.mark.parametrize(("place", "kwargs"), [(2, None), ("k", {"k": 5}), ("k", {"k": False}), ("k", {"k": []})])
def test_nil_is_in_the_place_of_a_stream(place, kwargs):
    with pytest.raises(InvalidArguments, match="stream 1 is for an argument that is not nil in its place"):
        request_with({"1": place}, kwargs=kwargs)


@pytest.mark.parametrize("places", [(0, 0), (1, 0, 1), ("k", 0, "k")])
def test_an_argument_is_one_stream(places):
    with pytest.raises(InvalidArguments, match="two streams are for the same argument"):
        request_with({str(i): place for i, place in enumerate(places, 1)}, kwargs={"k": None})


# --- credit ---


@pytest.mark.parametrize("size", [1, 127, 128, 65536, 2**31, 2**32 - 1])
def test_credit_round_trip(size):
    assert decode_credit(encode_credit(size)) == size
    assert decode_credit(memoryview(encode_credit(size))) == size


@pytest.mark.parametrize("size", [0, -1, 2**32, 2**64 - 1, 1.0, True, None, "1", b"1", [1], {}])
def test_a_credit_that_is_no_number_in_its_range(size):
    with pytest.raises(ProtocolError, match="the credit of a stream"):
        decode_credit(msgpack.packb(size))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xce\x00", b"\x01\x01", b"\x91\x01", b"\xd6\xff\x00\x00\x00\x01"])
def test_a_credit_that_cannot_be_read(body):
    with pytest.raises(ProtocolError, match="the credit of a stream cannot be read"):
        decode_credit(body)


def test_what_is_granted_by_default_can_be_granted():
    assert decode_credit(encode_credit(Limits().stream_credit)) == Limits().stream_credit
    assert ITEMS_COST > 0
    assert MAX_STREAM == 2**16 - 1


# --- the token in a hello ---


def test_a_token_is_in_the_bytes_and_not_in_the_text():
    hello = Hello(1000, 10, 5, token="secret")
    assert msgpack.unpackb(hello.encode()) == {**HELLO, "token": "secret"}
    assert "secret" not in repr(hello)
    assert hello == Hello(1000, 10, 5), "it does not tell two apart"
    assert Hello.decode(hello.encode()).token == "secret"


def test_a_token_is_not_kept():
    body = Hello(1000, 10, 5, token="secret").encode()
    one = Hello.decode(body)
    assert Hello.decode(body) is not one
    shared = one.without_token()
    assert shared.token is None
    assert Hello.decode(body).without_token() is shared
    assert Hello.of(Limits(), "secret").token == "secret"


@pytest.mark.parametrize("token", [1, b"secret", ["secret"], {"secret": 1}])
def test_a_token_that_is_no_text(token):
    with pytest.raises(ProtocolError, match="hello cannot be read") as caught:
        Hello.decode(msgpack.packb({**HELLO, "token": token}))
    assert "secret" not in str(caught.value)


def test_metadata_has_a_bound():
    def body(number):
        return pack(["S.f", [], None, None, {f"k{n}": n for n in range(number)}], max_depth=64)

    assert len(decode_request(body(1000), max_depth=64).metadata) == 1000
    for number in (1001, 100_000):
        with pytest.raises(InvalidArguments, match="metadata has more than 1000 entries"):
            decode_request(body(number), max_depth=64)
