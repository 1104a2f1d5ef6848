"""The protocol machine: every message in every state, without any I/O."""

import struct

import msgpack
import pytest
from support import fed, filled, frames_of, joined

from trpc import Limits, ProtocolError
from trpc._frames import CONTINUED, HEADER_SIZE, MORE, PREAMBLE, Frame, encode_frame
from trpc._messages import ALWAYS_ACCEPTED, UNTIL_HELLO, Hello, Kind, decode_credit
from trpc._protocol import Protocol

HELLO = encode_frame(Kind.HELLO, 0, Hello(5000, 7, 30).encode())
REPLIES = [Kind.RESULT, Kind.ERROR, Kind.CANCELLED, Kind.EXPIRED]
BODILESS = [Kind.PING, Kind.PONG, Kind.CANCEL, Kind.CANCELLED, Kind.EXPIRED, Kind.ARGUMENT_STOP]
OF_ARGUMENTS = [Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END, Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP]
# Those of which there may be fragments.
FRAGMENTED = [
    Kind.REQUEST,
    Kind.NOTIFY,
    Kind.RESULT,
    Kind.ERROR,
    Kind.ARGUMENT_ITEMS,
    Kind.RESULT_ITEMS,
]
AFTER_HELLO = [kind for kind in Kind if kind != Kind.HELLO]
# What the caller of a call sends, and what its callee sends.
OF_CALLER = [Kind.CANCEL, Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END, Kind.RESULT_CREDIT]
OF_CALLEE = [Kind.RESULT_ITEMS, Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP]


def machine(*, hello=True, **limits):
    protocol = Protocol(Limits(**limits))
    if hello:
        receive(protocol, PREAMBLE + HELLO)
    return protocol


def receive(protocol, data):
    frames = protocol.receive(data)
    assert protocol.error is None
    return frames


def in_call(**limits):
    """A machine with call 1 open in both directions, and a ping on its way."""
    protocol = machine(**limits)
    protocol.request(b"")
    protocol.ping()
    receive(protocol, encode_frame(Kind.REQUEST, 1))
    return protocol


def message(kind, body=None, call_id=None, **fields):
    """One that is right at this point in such a machine, but for what is given."""
    if body is None:
        body = b"" if kind in BODILESS else b"\x91\x01"
    if call_id is None:
        call_id = 2 if kind in {Kind.REQUEST, Kind.NOTIFY} else 1
    return encode_frame(kind, call_id, body, **{"stream": 1 if kind in OF_ARGUMENTS else 0, **fields})


def refuses(protocol, data, match):
    with pytest.raises(ProtocolError, match=match):
        receive(protocol, data)


# --- the opening ---


def test_the_opening_announces_the_limits():
    limits = Limits(max_message_size=1, max_calls=2, max_depth=3, stream_credit=4, control_burst=5, control_rate=6)
    hello = Hello(1, 2, 3, ("fragments", "streams"), 4, 5, 6, 64 * 2**20)
    assert Protocol(limits).opening() == PREAMBLE + encode_frame(Kind.HELLO, 0, hello.encode())


def test_two_machines_greet_each_other():
    one, two = Protocol(Limits(max_calls=11)), Protocol(Limits(max_calls=22))
    assert [frame.kind for frame in receive(one, two.opening())] == [Kind.HELLO]
    assert [frame.kind for frame in receive(two, one.opening())] == [Kind.HELLO]
    assert (one.peer.max_calls, two.peer.max_calls) == (22, 11)


def test_until_the_hello_the_peer_is_what_every_peer_is():
    protocol = machine(hello=False)
    assert protocol.peer == UNTIL_HELLO
    assert not protocol.peer_is_known
    receive(protocol, PREAMBLE)
    assert not protocol.peer_is_known
    receive(protocol, HELLO)
    assert protocol.peer_is_known
    assert protocol.peer == Hello(5000, 7, 30)


@pytest.mark.parametrize("kind", [*(kind for kind in Kind if kind != Kind.HELLO), 0x7F, 0x80, 0xFF])
def test_nothing_comes_before_the_hello(kind):
    refuses(
        machine(hello=False),
        PREAMBLE + encode_frame(kind, 1),
        f"first message is of kind {int(kind):#04x}, not a hello",
    )


@pytest.mark.parametrize("field", ["id", "flags", "stream"])
def test_a_hello_has_no_id_and_no_flags(field):
    frame = encode_frame(**{"kind": Kind.HELLO, "id": 0, "body": Hello(1, 1, 1).encode(), field: 1})
    refuses(machine(hello=False), PREAMBLE + frame, "not a hello")


def test_a_second_hello_is_refused():
    refuses(machine(), HELLO, "a second hello")


def test_a_bad_hello_is_refused():
    protocol = machine(hello=False)
    refuses(protocol, PREAMBLE + encode_frame(Kind.HELLO, 0, b"\xc1"), "hello cannot be read")
    assert not protocol.peer_is_known


def test_requests_may_follow_the_hello_in_one_piece():
    data = PREAMBLE + HELLO + encode_frame(Kind.REQUEST, 1, b"a") + encode_frame(Kind.CANCEL, 1)
    assert [(f.kind, f.id) for f in receive(machine(hello=False), data)] == [
        (Kind.HELLO, 0),
        (Kind.REQUEST, 1),
        (Kind.CANCEL, 1),
    ]


# --- sizes ---


def test_the_hello_has_a_limit_of_its_own():
    body = msgpack.packb({"max_message_size": 1, "max_calls": 1, "max_depth": 1, "pad": b"x" * 100})
    for limit in (len(body), len(body) - 1):
        protocol = machine(hello=False, max_hello_size=limit)
        data = PREAMBLE + encode_frame(Kind.HELLO, 0, body)
        if limit == len(body):
            assert [frame.kind for frame in receive(protocol, data)] == [Kind.HELLO]
        else:
            refuses(protocol, data[: len(PREAMBLE) + 4], "the longest accepted here")


@pytest.mark.parametrize("limit", [1, 100, ALWAYS_ACCEPTED, 50_000])
def test_after_the_hello_the_limit_is_the_messages(limit):
    most = max(limit, ALWAYS_ACCEPTED)
    protocol = machine(max_message_size=limit)
    data = encode_frame(Kind.REQUEST, 1, bytes(most)) + encode_frame(Kind.REQUEST, 2, bytes(most + 1))
    assert [frame.id for frame in protocol.receive(data)] == [1]
    assert f"the longest accepted here is {most + HEADER_SIZE}" in str(protocol.error)


def test_the_hello_may_be_larger_than_any_message():
    body = msgpack.packb({"max_message_size": 1, "max_calls": 1, "max_depth": 1, "pad": b"x" * 2 * ALWAYS_ACCEPTED})
    protocol = machine(hello=False, max_hello_size=len(body), max_message_size=10)
    assert len(receive(protocol, PREAMBLE + encode_frame(Kind.HELLO, 0, body))) == 1


# --- what all messages have in common ---


@pytest.mark.parametrize("kind", [0x00, 0x05, 0x16, 0x25, 0x28, 0x30, 0x7F])
def test_an_unknown_kind_is_refused(kind):
    refuses(machine(), encode_frame(kind, 1), f"unknown kind {kind:#04x}")


@pytest.mark.parametrize("kind", [0x80, 0x81, 0x90, 0xA0, 0xFF])
def test_an_unknown_kind_with_the_ignorable_bit_is_ignored(kind):
    protocol = machine()
    data = encode_frame(kind, 2**64 - 1, b"anything", flags=9, stream=9) + encode_frame(Kind.REQUEST, 1)
    assert receive(protocol, data) == [Frame(Kind.REQUEST, 1, b"")]


@pytest.mark.parametrize("kind", AFTER_HELLO)
def test_each_kind_is_accepted_in_its_place(kind):
    (frame,) = receive(in_call(), message(kind))
    assert frame.kind == kind


@pytest.mark.parametrize("kind", AFTER_HELLO)
@pytest.mark.parametrize("flags", [MORE, CONTINUED, MORE | CONTINUED, 0x04, 0x80, 0xFF])
def test_flags_are_for_fragments_of_what_may_be_large(kind, flags):
    data = message(kind, flags=flags)
    if kind in FRAGMENTED and not flags & ~(MORE | CONTINUED):
        assert receive(in_call(), data) == (begin_of(data) if flags == MORE else [])
    else:
        refuses(in_call(), data, f"flags {flags:#04x} on a message of kind {int(kind):#04x}")


@pytest.mark.parametrize("kind", AFTER_HELLO)
@pytest.mark.parametrize("stream", [0, 1, 65535])
@pytest.mark.parametrize("flags", [0, MORE])
def test_streams_are_numbered_and_nothing_else(kind, stream, flags):
    if flags and kind not in FRAGMENTED:
        return
    data = message(kind, stream=stream, flags=flags)
    if (stream > 0) == (kind in OF_ARGUMENTS):
        assert [frame.flags for frame in receive(in_call(), data)] == ([] if flags and not begin_of(data) else [flags])
    else:
        refuses(in_call(), data, f"{kind.name} for stream {stream}")


@pytest.mark.parametrize("kind", BODILESS)
def test_messages_without_a_body(kind):
    assert len(receive(in_call(), message(kind))) == 1
    refuses(in_call(), message(kind, b"x"), f"{kind.name} has a body")


# --- calls of the peer ---


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFY])
@pytest.mark.parametrize("call_id", [0, 1, 4, 5])
def test_ids_increase(kind, call_id):
    protocol = machine()
    receive(protocol, encode_frame(Kind.REQUEST, 5))
    refuses(protocol, encode_frame(kind, call_id), f"call id {call_id} after 5: ids must increase")


def test_the_first_id_is_not_zero():
    refuses(machine(), encode_frame(Kind.REQUEST, 0), "call id 0 after 0")


def test_ids_may_leave_gaps_and_go_to_the_end():
    protocol = machine()
    ids = [1, 3, 2**32, 2**64 - 1]
    assert [frame.id for i in ids for frame in receive(protocol, encode_frame(Kind.REQUEST, i))] == ids
    assert protocol.last_request == 2**64 - 1


def test_notifications_use_up_ids():
    protocol = machine()
    receive(protocol, encode_frame(Kind.NOTIFY, 1))
    assert protocol.last_request == 1
    refuses(protocol, encode_frame(Kind.REQUEST, 1), "ids must increase")


def test_a_request_is_given_although_its_body_cannot_be_read():
    assert receive(machine(), encode_frame(Kind.REQUEST, 1, b"\xc1")) == [Frame(Kind.REQUEST, 1, b"\xc1")]


def test_a_cancel_for_an_open_call_is_given_each_time():
    protocol = machine()
    receive(protocol, encode_frame(Kind.REQUEST, 1))
    assert len(receive(protocol, encode_frame(Kind.CANCEL, 1) * 2)) == 2


@pytest.mark.parametrize("kind", REPLIES)
def test_a_cancel_for_a_finished_call_is_without_effect(kind):
    protocol = machine()
    receive(protocol, encode_frame(Kind.REQUEST, 1))
    assert protocol.reply(kind, 1) == encode_frame(kind, 1)
    assert receive(protocol, encode_frame(Kind.CANCEL, 1)) == []


def test_a_cancel_for_an_id_that_was_left_out_or_a_notification_is_without_effect():
    protocol = machine()
    receive(protocol, encode_frame(Kind.REQUEST, 5) + encode_frame(Kind.NOTIFY, 6))
    assert receive(protocol, encode_frame(Kind.CANCEL, 3) + encode_frame(Kind.CANCEL, 6)) == []


@pytest.mark.parametrize("call_id", [6, 2**64 - 1])
def test_a_cancel_for_a_future_call_is_refused(call_id):
    protocol = machine()
    receive(protocol, encode_frame(Kind.REQUEST, 5))
    refuses(protocol, encode_frame(Kind.CANCEL, call_id), f"a CANCEL for call {call_id}, which has not been made")


def test_a_cancel_before_any_call_is_refused():
    refuses(machine(), encode_frame(Kind.CANCEL, 1), "has not been made")


def test_a_call_is_replied_to_once():
    protocol = machine()
    receive(protocol, encode_frame(Kind.REQUEST, 1))
    assert protocol.reply(Kind.RESULT, 1, b"body") == encode_frame(Kind.RESULT, 1, b"body")
    with pytest.raises(KeyError):
        protocol.reply(Kind.RESULT, 1)


def test_a_notification_is_not_replied_to():
    protocol = machine()
    receive(protocol, encode_frame(Kind.NOTIFY, 1))
    with pytest.raises(KeyError):
        protocol.reply(Kind.RESULT, 1)


# --- our calls ---


def test_requests_and_notifications_number_themselves():
    protocol = machine()
    assert protocol.request(b"a") == (1, encode_frame(Kind.REQUEST, 1, b"a"))
    assert protocol.notify(b"b") == encode_frame(Kind.NOTIFY, 2, b"b")
    assert protocol.request(b"c") == (3, encode_frame(Kind.REQUEST, 3, b"c"))
    assert protocol.cancel(3) == encode_frame(Kind.CANCEL, 3)


def test_a_request_may_be_sent_before_the_hello_has_come():
    protocol = machine(hello=False)
    call_id, _ = protocol.request(b"")
    receive(protocol, PREAMBLE + HELLO)
    assert len(receive(protocol, encode_frame(Kind.RESULT, call_id))) == 1


@pytest.mark.parametrize("first", REPLIES)
@pytest.mark.parametrize("second", REPLIES)
def test_a_call_has_one_reply(first, second):
    protocol = machine()
    call_id, _ = protocol.request(b"")
    assert receive(protocol, encode_frame(first, call_id)) == [Frame(first, call_id, b"")]
    refuses(protocol, encode_frame(second, call_id), "a reply to call 1, which is not open")


@pytest.mark.parametrize("kind", REPLIES)
@pytest.mark.parametrize("call_id", [0, 2, 4, 2**64 - 1])
def test_replies_belong_to_open_calls(kind, call_id):
    protocol = machine()
    protocol.request(b"")
    protocol.notify(b"")
    protocol.request(b"")
    refuses(protocol, encode_frame(kind, call_id), f"a reply to call {call_id}, which is not open")


@pytest.mark.parametrize("kind", REPLIES)
def test_a_cancelled_call_is_open_until_its_reply(kind):
    protocol = machine()
    call_id, _ = protocol.request(b"")
    protocol.cancel(call_id)
    assert len(receive(protocol, encode_frame(kind, call_id))) == 1


def test_a_request_that_was_not_sent_gets_no_reply_and_its_id_is_gone():
    protocol = machine()
    call_id, _ = protocol.request(b"")
    protocol.forget_request(call_id)
    protocol.forget_request(call_id)
    assert protocol.request(b"")[0] == call_id + 1
    refuses(protocol, encode_frame(Kind.RESULT, call_id), "not open")


def test_the_ids_of_the_two_directions_are_apart():
    protocol = machine()
    ours, _ = protocol.request(b"")
    receive(protocol, encode_frame(Kind.REQUEST, ours))
    assert receive(protocol, encode_frame(Kind.RESULT, ours)) == [Frame(Kind.RESULT, ours, b"")]
    assert protocol.reply(Kind.RESULT, ours) == encode_frame(Kind.RESULT, ours)


# --- pings, the end ---


def test_pings():
    protocol = machine()
    assert protocol.ping() == (1, encode_frame(Kind.PING, 1))
    assert protocol.ping() == (2, encode_frame(Kind.PING, 2))
    assert receive(protocol, encode_frame(Kind.PONG, 2) + encode_frame(Kind.PONG, 1)) == [
        Frame(Kind.PONG, 2, b""),
        Frame(Kind.PONG, 1, b""),
    ]
    assert protocol.pong(9) == encode_frame(Kind.PONG, 9)


def test_the_peer_numbers_its_pings_as_it_likes():
    numbers = [0, 7, 7, 3, 2**64 - 1]
    data = b"".join(encode_frame(Kind.PING, number) for number in numbers)
    assert [frame.id for frame in receive(machine(), data)] == numbers


@pytest.mark.parametrize("number", [0, 2, 2**64 - 1])
def test_an_answer_to_no_ping_is_refused(number):
    protocol = machine()
    protocol.ping()
    refuses(protocol, encode_frame(Kind.PONG, number), f"an answer to ping {number}, which was not sent")


def test_goaway_names_the_last_request_that_arrived():
    protocol = machine()
    assert protocol.goaway(b"why") == encode_frame(Kind.GOAWAY, 0, b"why")
    receive(protocol, encode_frame(Kind.REQUEST, 3) + encode_frame(Kind.NOTIFY, 9))
    assert protocol.goaway(b"why") == encode_frame(Kind.GOAWAY, 9, b"why")


def test_goaway_is_given():
    assert receive(machine(), encode_frame(Kind.GOAWAY, 0, b"why")) == [Frame(Kind.GOAWAY, 0, b"why")]


def test_messages_before_a_faulty_one_are_given_first():
    protocol = machine()
    frames = protocol.receive(encode_frame(Kind.PING, 1) + encode_frame(0x7F, 1) + encode_frame(Kind.PING, 2))
    assert frames == [Frame(Kind.PING, 1, b"")]
    assert isinstance(protocol.error, ProtocolError)
    assert "unknown kind 0x7f" in str(protocol.error)


def test_messages_before_a_faulty_length_are_given_first():
    protocol = machine()
    assert protocol.receive(encode_frame(Kind.PING, 1) + b"\0\0\0\0") == [Frame(Kind.PING, 1, b"")]
    assert "a frame of length 0" in str(protocol.error)
    refuses(protocol, b"", "a frame of length 0")


def test_a_faulty_length_behind_messages_without_effect_is_refused():
    refuses(machine(), encode_frame(0x80, 1) + b"\0\0\0\0", "a frame of length 0")


def test_the_first_of_two_mistakes_counts():
    protocol = machine()
    protocol.receive(encode_frame(Kind.PING, 1) + encode_frame(0x7F, 1) + b"\0\0\0\0")
    assert "unknown kind" in str(protocol.error)


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        (b"\0\0\0\0", "a frame of length 0"),
        (encode_frame(0x7F, 1), "unknown kind 0x7f"),
        (HELLO, "a second hello"),
        (struct.pack(">I", 2**31), "the longest accepted here"),
    ],
)
def test_the_hello_is_given_before_the_error_behind_it(behind, message):
    protocol = machine(hello=False)
    assert [frame.kind for frame in protocol.receive(PREAMBLE + HELLO + behind)] == [Kind.HELLO]
    assert protocol.peer_is_known
    assert message in str(protocol.error)


def test_what_is_behind_the_hello_is_given_before_the_error_behind_that():
    protocol = machine(hello=False)
    data = PREAMBLE + HELLO + encode_frame(Kind.REQUEST, 1, b"a") + encode_frame(Kind.REQUEST, 1)
    assert [(frame.kind, frame.id) for frame in protocol.receive(data)] == [(Kind.HELLO, 0), (Kind.REQUEST, 1)]
    assert "call id 1 after 1" in str(protocol.error)


def test_what_is_behind_the_hello_may_be_larger_than_a_hello():
    data = PREAMBLE + HELLO + encode_frame(Kind.REQUEST, 1, bytes(3000))
    for cut in range(len(PREAMBLE), len(data) - 2900, 3):
        protocol = machine(hello=False, max_hello_size=200)
        kinds = [frame.kind for piece in (data[:cut], data[cut:]) for frame in receive(protocol, piece)]
        assert kinds == [Kind.HELLO, Kind.REQUEST], cut


# --- large messages ---

LARGE = 200_000


@pytest.mark.parametrize("first", [4, 16, 20, 60_000, LARGE - 70_000])
def test_a_large_message_is_received_into_its_room(first):
    protocol = machine()
    body = bytes(i % 251 for i in range(LARGE))
    data = encode_frame(Kind.REQUEST, 1, body)
    assert receive(protocol, data[:first]) == []
    # Not before its header is there: what it is decides on whether there is room for it.
    assert (protocol.frames.room() is not None) is (first >= 16)
    frames, error = frames_of(protocol, [data[first:] + encode_frame(Kind.PING, 9)], filled)
    assert error is None
    assert frames == [Frame(Kind.REQUEST, 1, body), Frame(Kind.PING, 9, b"")]
    assert protocol.last_request == 1


@pytest.mark.parametrize("how", [fed, filled])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode_frame(Kind.REQUEST, 0, bytes(LARGE)), "ids must increase"),
        (encode_frame(0x7F, 0, bytes(LARGE)), "unknown kind 0x7f"),
        (encode_frame(Kind.PING, 0, bytes(LARGE)), "PING has a body"),
        (encode_frame(Kind.RESULT, 1, bytes(LARGE)), "not open"),
        (encode_frame(Kind.GOAWAY, 1, bytes(LARGE), flags=1), "flags 0x01 on a message of kind 0x04"),
        (encode_frame(Kind.ARGUMENT_ITEMS, 1, bytes(LARGE), stream=1), "has not been made"),
        (encode_frame(Kind.RESULT_ITEMS, 1, bytes(LARGE)), "not open"),
        (encode_frame(Kind.HELLO, 0, bytes(LARGE)), "a second hello"),
    ],
)
def test_a_large_message_is_checked_as_any(data, message, how):
    frames, error = frames_of(machine(), [data[:60_000], data[60_000:]], how)
    assert frames == []
    assert message in str(error)


@pytest.mark.parametrize("how", [fed, filled])
def test_a_large_message_without_effect_is_not_given(how):
    data = encode_frame(0x80, 0, bytes(LARGE)) + encode_frame(Kind.PING, 1)
    assert frames_of(machine(), [data[:60_000], data[60_000:]], how) == ([Frame(Kind.PING, 1, b"")], None)


@pytest.mark.parametrize("how", [fed, filled])
@pytest.mark.parametrize("first", [4, 20, 60_000, 140_000])
def test_a_hello_may_be_large(how, first):
    body = msgpack.packb({"max_message_size": 1, "max_calls": 2, "max_depth": 3, "pad": bytes(LARGE)})
    protocol = machine(hello=False, max_hello_size=len(body))
    data = PREAMBLE + encode_frame(Kind.HELLO, 0, body)
    frames, error = frames_of(protocol, [data[:first], data[first:], encode_frame(Kind.REQUEST, 1)], how)
    assert error is None
    assert [frame.kind for frame in frames] == [Kind.HELLO, Kind.REQUEST]
    assert protocol.peer == Hello(1, 2, 3)


def test_the_end_inside_of_the_room_is_a_truncation():
    protocol = machine()
    data = encode_frame(Kind.REQUEST, 1, bytes(LARGE))
    frames_of(protocol, [data[:1000], data[1000:-1]], filled)
    with pytest.raises(ProtocolError, match="the stream ended inside a frame"):
        protocol.receive_eof()


@pytest.mark.parametrize("body", [b"ab", (b"a", b"", b"b"), bytes(LARGE), (bytes(LARGE), b"b")])
def test_bodies_may_be_in_pieces(body):
    protocol = machine()
    receive(protocol, encode_frame(Kind.REQUEST, 1))
    whole = joined(body)
    call_id, data = protocol.request(body)
    assert joined(data) == encode_frame(Kind.REQUEST, call_id, whole)
    assert joined(protocol.notify(body)) == encode_frame(Kind.NOTIFY, 2, whole)
    assert joined(protocol.reply(Kind.RESULT, 1, body)) == encode_frame(Kind.RESULT, 1, whole)


# --- streams ---


@pytest.mark.parametrize("kind", OF_CALLER)
@pytest.mark.parametrize("how", [*REPLIES, "notify", "left out"])
def test_what_is_for_a_finished_call_is_without_effect(kind, how):
    protocol = machine()
    if how == "notify":
        receive(protocol, encode_frame(Kind.NOTIFY, 1))
    else:
        receive(protocol, encode_frame(Kind.REQUEST, 2 if how == "left out" else 1))
    if how in REPLIES:
        protocol.reply(how, 1)
    assert receive(protocol, message(kind)) == []
    # In fragments as well, and they are not kept.
    if kind in FRAGMENTED:
        assert receive(protocol, message(kind, flags=MORE) + message(kind, flags=CONTINUED)) == []
        assert not protocol._fragments


@pytest.mark.parametrize("kind", OF_CALLER)
@pytest.mark.parametrize("call_id", [2, 2**64 - 1])
def test_what_is_for_a_future_call_is_refused(kind, call_id):
    refuses(in_call(), message(kind, call_id=call_id), f"a {kind.name} for call {call_id}, which has not been made")
    if kind in FRAGMENTED:
        refuses(in_call(), message(kind, call_id=call_id, flags=MORE), "which has not been made")


@pytest.mark.parametrize("kind", [Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP])
@pytest.mark.parametrize("reply", REPLIES)
def test_what_the_consumer_of_an_argument_says_may_cross_the_end_of_the_call(kind, reply):
    protocol = in_call()
    receive(protocol, message(reply))
    assert receive(protocol, message(kind)) == []
    refuses(protocol, message(kind, call_id=2), f"a {kind.name} for call 2, which has not been made")


@pytest.mark.parametrize("kind", [Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP])
def test_what_the_consumer_of_an_argument_says_of_a_one_way_call_is_without_effect(kind):
    protocol = machine()
    protocol.notify(b"")
    assert receive(protocol, message(kind)) == []


@pytest.mark.parametrize("flags", [0, MORE])
def test_items_come_before_the_reply_of_their_call(flags):
    data = message(Kind.RESULT_ITEMS, flags=flags)
    protocol = in_call()
    assert [frame.flags for frame in receive(protocol, data)] == [flags]
    receive(protocol, message(Kind.RESULT))
    refuses(protocol, data, "a RESULT_ITEMS for call 1, which is not open")
    refuses(machine(), data, "a RESULT_ITEMS for call 1, which is not open")


def test_messages_of_streams_on_the_wire():
    protocol = in_call()
    assert protocol.stream_message(Kind.ARGUMENT_ITEMS, 1, 7, b"abc") == message(Kind.ARGUMENT_ITEMS, b"abc", stream=7)
    assert protocol.stream_message(Kind.RESULT_ITEMS, 1, 0, b"abc") == message(Kind.RESULT_ITEMS, b"abc")
    pieces = protocol.stream_message(Kind.RESULT_ITEMS, 1, 0, (b"\x91", bytes(LARGE)))
    assert joined(pieces) == message(Kind.RESULT_ITEMS, b"\x91" + bytes(LARGE))
    assert protocol.stop(1, 7) == message(Kind.ARGUMENT_STOP, stream=7)
    (credit,) = receive(in_call(), protocol.credit(Kind.ARGUMENT_CREDIT, 1, 7, 1000))
    assert (credit.kind, credit.stream, decode_credit(credit.body)) == (Kind.ARGUMENT_CREDIT, 7, 1000)


# --- fragments ---

OF_STREAMS = {Kind.ARGUMENT_ITEMS, Kind.RESULT_ITEMS}


def begin_of(data):
    """What is given for the first fragment of a message: of one of a stream, that it begins."""
    kind, stream = data[4], int.from_bytes(data[6:8])
    call_id = int.from_bytes(data[8:16])
    return [Frame(kind, call_id, b"", MORE, stream)] if kind in OF_STREAMS else []


def fragments(kind, *bodies, call_id=None, **fields):
    """A message in fragments, each as the bytes of its frame."""
    last = len(bodies) - 1
    return [
        message(kind, body, call_id, flags=MORE * (i < last) | CONTINUED * (i > 0), **fields)
        for i, body in enumerate(bodies)
    ]


@pytest.mark.parametrize("kind", FRAGMENTED)
@pytest.mark.parametrize("number", [2, 3, 10])
def test_a_message_in_fragments_is_given_whole(kind, number):
    bodies = [b"%02d" % i for i in range(number)]
    protocol = in_call()
    *begin, last = fragments(kind, *bodies)
    assert receive(protocol, b"".join(begin)) == begin_of(begin[0])
    (frame,) = receive(protocol, last)
    assert (frame.kind, frame.flags, frame.stream) == (kind, 0, 1 if kind in OF_ARGUMENTS else 0)
    assert frame.body == b"".join(bodies)
    assert not protocol._fragments


@pytest.mark.parametrize("kind", FRAGMENTED)
@pytest.mark.parametrize("flags", [MORE, MORE | CONTINUED, CONTINUED])
def test_a_fragment_has_a_body(kind, flags):
    refuses(in_call(), message(kind, b"", flags=flags), "a fragment without a body")


def test_fragments_of_many_messages_in_turns():
    protocol = in_call()
    protocol.request(b"")
    messages = [
        fragments(Kind.REQUEST, b"a", b"b", b"c", call_id=2),
        fragments(Kind.NOTIFY, b"d", b"e", b"f", call_id=3),
        fragments(Kind.RESULT_ITEMS, b"g", b"h", b"i"),
        fragments(Kind.RESULT, b"j", b"k", b"l", call_id=2),
        fragments(Kind.ARGUMENT_ITEMS, b"m", b"n", b"o", stream=1),
        fragments(Kind.ARGUMENT_ITEMS, b"p", b"q", b"r", stream=2),
        fragments(Kind.REQUEST, b"s", b"t", b"u", call_id=9),
    ]
    first, second, last = [receive(protocol, b"".join(parts)) for parts in zip(*messages, strict=True)]
    assert [(frame.kind, frame.stream, frame.flags) for frame in first] == [
        (Kind.RESULT_ITEMS, 0, MORE),
        (Kind.ARGUMENT_ITEMS, 1, MORE),
        (Kind.ARGUMENT_ITEMS, 2, MORE),
    ]
    assert second == []
    assert [frame.body for frame in last] == [b"abc", b"def", b"ghi", b"jkl", b"mno", b"pqr", b"stu"]


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFY])
def test_the_id_of_a_request_is_used_by_its_first_fragment(kind):
    protocol = machine()
    first, last = fragments(kind, b"a", b"b", call_id=5)
    receive(protocol, first)
    assert protocol.last_request == 5
    for call_id in (4, 5):
        for flags in (0, MORE):
            other = Kind.NOTIFY if kind == Kind.REQUEST else Kind.REQUEST
            refuses(protocol, message(other, call_id=call_id, flags=flags), "ids must increase")
    receive(protocol, message(Kind.REQUEST, call_id=6))
    assert [frame.id for frame in receive(protocol, last)] == [5]
    assert protocol.last_request == 6


def test_a_cancel_for_a_request_that_is_not_complete():
    protocol = machine()
    first, second, last = fragments(Kind.REQUEST, b"a", b"b", b"c", call_id=1)
    receive(protocol, first)
    assert len(receive(protocol, message(Kind.CANCEL))) == 1
    assert protocol.drop_incomplete_request(1)
    assert not protocol.drop_incomplete_request(1)
    protocol.reply(Kind.CANCELLED, 1)
    # What was on its way.
    assert receive(protocol, second + last) == []
    assert receive(protocol, message(Kind.CANCEL)) == []


def test_without_fragments_there_is_no_incomplete_request():
    protocol = in_call()
    assert not protocol.drop_incomplete_request(1)


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.ERROR])
def test_a_call_is_open_until_the_last_fragment_of_its_reply(kind):
    protocol = in_call()
    first, last = fragments(kind, b"a", b"b")
    receive(protocol, first)
    assert len(receive(protocol, message(Kind.RESULT_ITEMS))) == 1
    assert len(receive(protocol, last)) == 1
    refuses(protocol, first, f"a {kind.name} for call 1, which is not open")


@pytest.mark.parametrize("begun", [Kind.RESULT, Kind.ERROR, Kind.RESULT_ITEMS])
@pytest.mark.parametrize("reply", REPLIES)
def test_a_whole_reply_voids_what_is_incomplete(begun, reply):
    protocol = in_call()
    first, last = fragments(begun, b"a", b"b")
    receive(protocol, first)
    # Of the same kind it would be in the middle of the other one; that is no matter, as it ends the call.
    (frame,) = receive(protocol, message(reply))
    assert frame.kind == reply
    assert not protocol._fragments
    assert receive(protocol, last) == []


def test_the_end_of_an_argument_voids_its_incomplete_items():
    protocol = in_call()
    first, last = fragments(Kind.ARGUMENT_ITEMS, b"a", b"b")
    others = fragments(Kind.ARGUMENT_ITEMS, b"c", b"d", stream=2)
    receive(protocol, first + others[0])
    assert [frame.kind for frame in receive(protocol, message(Kind.ARGUMENT_END))] == [Kind.ARGUMENT_END]
    assert receive(protocol, last) == []
    assert [frame.body for frame in receive(protocol, others[1])] == [b"cd"]


def test_our_reply_voids_incomplete_items_of_arguments():
    protocol = in_call()
    receive(protocol, message(Kind.REQUEST, call_id=2))
    first, last = fragments(Kind.ARGUMENT_ITEMS, b"a", b"b")
    others = fragments(Kind.ARGUMENT_ITEMS, b"c", b"d", call_id=2)
    receive(protocol, first + others[0])
    protocol.reply(Kind.RESULT, 1)
    assert receive(protocol, last) == []
    assert [frame.body for frame in receive(protocol, others[1])] == [b"cd"]


@pytest.mark.parametrize("kind", FRAGMENTED)
def test_a_message_in_the_middle_of_another_one(kind):
    protocol = in_call()
    receive(protocol, fragments(kind, b"a", b"b")[0])
    again = message(kind, flags=MORE)
    refuses(protocol, again, "begins in the middle of another one|ids must increase")


@pytest.mark.parametrize("kind", FRAGMENTED)
def test_the_limit_of_a_message_is_that_of_all_its_fragments(kind):
    most = 50_000
    for extra in (0, 1):
        protocol = in_call(max_message_size=most)
        *begin, last = fragments(kind, bytes(20_000), bytes(20_000), bytes(10_000 + extra))
        receive(protocol, b"".join(begin))
        if extra:
            refuses(protocol, last, "a message of more than 50000 bytes")
        else:
            assert [len(frame.body) for frame in receive(protocol, last)] == [most]


@pytest.mark.parametrize("kind", [Kind.ARGUMENT_ITEMS, Kind.RESULT_ITEMS])
def test_whole_items_in_the_middle_of_others(kind):
    """They would overtake them."""
    protocol = in_call()
    first, last = fragments(kind, b"a", b"b")
    receive(protocol, first)
    refuses(protocol, message(kind), "a message begins in the middle of another one with its kind, id and stream")
    protocol = in_call()
    receive(protocol, first)
    receive(protocol, last)
    assert len(receive(protocol, message(kind))) == 1
    if kind == Kind.ARGUMENT_ITEMS:
        receive(protocol, first)
        assert len(receive(protocol, message(kind, stream=2))) == 1, "of another stream"


def test_requests_that_are_not_complete_are_limited_in_all():
    protocol = machine(max_bytes_in_flight=50_000, max_message_size=1, max_calls=5)
    _, last = fragments(Kind.REQUEST, bytes(10_000), bytes(5), call_id=1)
    for call_id in range(1, 5):
        assert receive(protocol, fragments(Kind.REQUEST, bytes(10_000), bytes(5), call_id=call_id)[0]) == []
    second, *_ = fragments(Kind.REQUEST, bytes(10_001), bytes(5), call_id=5)
    (frame,) = receive(protocol, second)
    # To be answered, though it will not be complete.
    assert (frame.id, frame.flags, frame.body) == (5, MORE, b"")
    protocol.reply(Kind.ERROR, 5)
    assert [frame.id for frame in receive(protocol, last)] == [1]


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFY])
def test_requests_that_are_not_complete_are_limited_in_number(kind):
    protocol = machine(max_calls=2)
    for call_id in (1, 2):
        assert receive(protocol, fragments(kind, b"a", b"b", call_id=call_id)[0]) == []
    (frame,) = receive(protocol, fragments(kind, b"a", b"b", call_id=3)[0])
    assert (frame.kind, frame.id, frame.flags) == (kind, 3, MORE)
    assert [frame.id for frame in receive(protocol, fragments(kind, b"a", b"b", call_id=1)[1])] == [1]
    assert receive(protocol, fragments(kind, b"a", b"b", call_id=4)[0]) == []


def test_how_many_frames_there_were():
    """With those that have no effect: others have to wait for them as well."""
    protocol = machine()
    receive(protocol, encode_frame(Kind.PING, 1) + encode_frame(0x80, 1) * 3 + encode_frame(Kind.PING, 2)[:5])
    assert protocol.cut == 4
    receive(protocol, encode_frame(Kind.PING, 2)[5:])
    assert protocol.cut == 1


# --- the end of the stream ---


def test_the_end_between_frames_is_an_end():
    protocol = machine(hello=False)
    protocol.receive_eof()
    receive(protocol, PREAMBLE)
    protocol.receive_eof()
    receive(protocol, HELLO)
    protocol.receive_eof()


@pytest.mark.parametrize("cut", [1, len(PREAMBLE) - 1, len(PREAMBLE) + 1, len(PREAMBLE + HELLO) - 1])
def test_the_end_inside_a_frame_is_a_truncation(cut):
    protocol = machine(hello=False)
    receive(protocol, (PREAMBLE + HELLO)[:cut])
    with pytest.raises(ProtocolError, match="the stream ended inside a frame"):
        protocol.receive_eof()
