"""Exceptions to error bodies and back: what arrives is what was raised, or says what it was."""

import builtins
import dataclasses
import datetime as dt
import enum
import traceback
import uuid

import msgpack
import pytest
import trio

import trpc
from trpc import ProtocolError, RemoteError, _codec, _errors, _exceptions
from trpc._codec import EncodeError
from trpc._exceptions import Code, decode_error, encode_exception, encode_status, is_after_cancel


def encode(exc, *, send_traceback=False, max_depth=64):
    return encode_exception(exc, send_traceback=send_traceback, max_depth=max_depth)


def decode(body, *, max_depth=64):
    return decode_error(body, max_depth=max_depth)


def hop(exc, **options):
    """The exception as the caller gets it."""
    return decode(encode(exc, **options))


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch):
    monkeypatch.setattr(_exceptions, "_registered", dict(_exceptions._registered))


# --- builtin exceptions ---

ARGS = {
    UnicodeDecodeError: ("utf-8", b"\xff", 0, 1, "invalid start byte"),
    UnicodeEncodeError: ("ascii", "\xe9", 0, 1, "ordinal not in range"),
    UnicodeTranslateError: ("\xe9", 0, 1, "why not"),
    KeyError: ("the key",),
}
NOT_RAISED_IN_CALLERS = (StopIteration, StopAsyncIteration, BaseExceptionGroup)
BUILTINS = sorted(
    {
        cls
        for cls in vars(builtins).values()
        if isinstance(cls, type) and issubclass(cls, Exception) and not issubclass(cls, NOT_RAISED_IN_CALLERS)
    },
    key=lambda cls: cls.__name__,
)


def args_of(cls):
    return ARGS.get(cls) or ((5, "it broke") if issubclass(cls, OSError) else ("it broke",))


@pytest.mark.parametrize("cls", BUILTINS)
def test_builtins_arrive_as_that_builtin_and_as_a_remote_error(cls):
    sent = cls(*args_of(cls))
    received = hop(sent)
    assert isinstance(received, cls)
    assert isinstance(received, RemoteError)
    assert received.args == sent.args
    assert str(received) == received.message == str(sent)
    assert received.type_name == type(sent).__name__


@pytest.mark.parametrize("cls", BUILTINS)
def test_builtins_arrive_unchanged_over_a_second_hop(cls):
    first = hop(cls(*args_of(cls)))
    second = hop(first)
    assert type(second) is type(first)
    assert (second.args, second.message, second.type_name) == (first.args, first.message, first.type_name)
    assert str(second) == str(first)


@pytest.mark.parametrize("cls", BUILTINS)
def test_builtins_arrive_without_arguments(cls):
    if cls in ARGS and cls is not KeyError:
        sent = cls.__new__(cls)
        sent.args = ()
    else:
        sent = cls()
    received = hop(sent)
    assert isinstance(received, cls)
    assert received.args == ()
    assert traceback.format_exception(received)


def takes(cls, args):
    try:
        cls(*args)
    except TypeError:
        return False
    return True


UNUSUAL = [(1,), (None, "x"), ("a", 1, b"c"), ([1, {"a": 2}],), (1, 2, 3, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("cls", "args"), [(cls, args) for cls in BUILTINS for args in UNUSUAL if cls not in ARGS and takes(cls, args)]
)
def test_builtins_arrive_with_arguments_that_are_not_the_usual_ones(cls, args):
    sent = cls(*args)
    received = hop(sent)
    assert isinstance(received, cls)
    assert received.args == sent.args
    assert str(received) == str(sent)


def test_what_builtins_keep_beside_their_arguments():
    error = hop(FileNotFoundError(2, "No such file"))
    assert (error.errno, error.strerror, str(error)) == (2, "No such file", "[Errno 2] No such file")
    error = hop(UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "bad"))
    assert (error.encoding, error.object, error.start, error.end, error.reason) == ("utf-8", b"a\xff", 1, 2, "bad")
    error = hop(SyntaxError("bad", ("file.py", 3, 4, "text")))
    assert (error.msg, error.filename, error.lineno, error.offset) == ("bad", "file.py", 3, 4)
    assert hop(ImportError("no module")).msg == "no module"


def test_the_message_says_what_the_arguments_do_not():
    # The file's name is not among the args of an OSError.
    error = hop(FileNotFoundError(2, "No such file", "/tmp/x"))
    assert str(error) == "[Errno 2] No such file: '/tmp/x'"
    assert error.errno == 2


def test_a_key_error_has_its_key():
    error = hop(KeyError("the key"))
    assert error.args == ("the key",)
    assert str(error) == "'the key'"


def test_arguments_that_cannot_be_sent_are_left_out():
    error = hop(ValueError("bad value", object()))
    assert isinstance(error, ValueError)
    assert error.message.startswith("('bad value', <object object")


@pytest.mark.parametrize("arg", [{1: 2}, 2**64, object, {1: [set()]}])
def test_arguments_that_cannot_be_sent_do_not_hide_the_class(arg):
    assert isinstance(hop(LookupError(arg)), LookupError)


def test_an_encode_error_of_unicode_arrives_although_its_text_cannot():
    with pytest.raises(UnicodeEncodeError) as caught:
        "\ud800".encode()
    error = hop(caught.value)
    assert isinstance(error, UnicodeEncodeError)
    assert "surrogates not allowed" in str(error)
    assert traceback.format_exception(error)


@pytest.mark.parametrize("cls", [StopIteration, StopAsyncIteration])
def test_what_a_coroutine_cannot_raise_arrives_as_a_remote_error_only(cls):
    error = hop(cls("value"))
    assert type(error) is RemoteError
    assert error.type_name == cls.__name__


def test_the_class_prints_as_the_builtin():
    error = hop(ZeroDivisionError("division by zero"))
    assert type(error).__name__ == "ZeroDivisionError"
    assert traceback.format_exception_only(error) == ["trpc.ZeroDivisionError: division by zero\n"]
    assert type(error) is type(hop(ZeroDivisionError("again")))


# --- classes that nobody registered ---


class Unregistered(Exception):
    pass


class UnregisteredValueError(ValueError):
    pass


def test_other_classes_arrive_as_a_remote_error():
    error = hop(Unregistered("it broke", 5))
    assert type(error) is RemoteError
    assert error.type_name == "Unregistered"
    assert error.message == "('it broke', 5)"
    assert str(error) == "Unregistered: ('it broke', 5)"


def test_a_subclass_of_a_builtin_is_not_that_builtin():
    error = hop(UnregisteredValueError("x"))
    assert type(error) is RemoteError
    assert error.type_name == "UnregisteredValueError"


@pytest.mark.parametrize("name", ["ValueError", "TooSlowError", "ExceptionGroup", "OSError"])
def test_a_users_class_named_like_another_does_not_become_it(name):
    cls = type(name, (Exception,), {})
    first = hop(cls("mine"))
    assert type(first) is RemoteError
    assert (first.type_name, first.message) == (name, "mine")
    second = hop(first)
    assert type(second) is RemoteError
    assert (second.type_name, second.message) == (name, "mine")


def test_a_users_class_named_like_a_registered_one_does_not_become_it():
    trpc.exception(name="Mine")(Unregistered)
    cls = type("Mine", (Exception,), {})
    assert type(hop(cls("other"))) is RemoteError
    assert type(hop(hop(cls("other")))) is RemoteError


@pytest.mark.parametrize("cls", [trpc.MethodNotFound, trpc.Overloaded, trpc.ConnectionLost, trpc.Unavailable])
def test_an_error_of_a_nested_call_is_not_mistaken_for_one_of_this_call(cls):
    # The handler's own connection was lost, not the caller's.
    error = hop(cls("downstream"))
    assert type(error) is RemoteError
    assert error.type_name == cls.__name__
    assert error.message == "downstream"


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (_errors.ClientClosed, "ConnectionLost"),
        (_errors.UnavailableOSError, "Unavailable"),
        (_errors.UnavailableRefusedError, "Unavailable"),
    ],
)
def test_errors_that_are_not_exported_have_the_name_of_what_users_see(cls, name):
    assert hop(cls("downstream")).type_name == name


def test_invalid_arguments_of_a_nested_call_are_not_this_calls():
    assert type(hop(trpc.InvalidArguments("downstream"))) is RemoteError


# --- timeouts ---


@pytest.mark.parametrize("sent", [trio.TooSlowError("slow"), trpc.DeadlineExceeded("slow")])
def test_a_timeout_in_the_handler_is_a_deadline_exceeded(sent):
    for received in hop(sent), hop(hop(sent)):
        assert isinstance(received, trpc.DeadlineExceeded)
        assert isinstance(received, trio.TooSlowError)
        assert isinstance(received, RemoteError)
        assert (received.type_name, received.message, str(received)) == ("TooSlowError", "slow", "slow")


def test_a_timeout_raised_by_fail_after():
    async def main():
        with trio.fail_after(0):
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError) as caught:
        trio.run(main)
    assert isinstance(hop(caught.value), trio.TooSlowError)


# --- relays ---


def test_a_remote_error_passes_through():
    first = hop(Unregistered("it broke"))
    second = hop(first)
    assert type(second) is RemoteError
    assert (second.type_name, second.message, second.args) == (first.type_name, first.message, first.args)
    assert str(second) == "Unregistered: it broke"


def test_an_internal_error_passes_through():
    second = hop(decode(encode_status(trpc.RPCError("boom"))))
    assert type(second) is RemoteError
    assert (second.type_name, second.message) == ("InternalError", "boom")


@pytest.mark.parametrize("message", [None, 5, ["x"], object()])
def test_a_remote_error_that_a_handler_raises_itself_arrives_whatever_its_message(message):
    sent = RemoteError(message)
    error = hop(sent)
    assert type(error) is RemoteError
    assert (error.message, error.type_name) == (str(message), "InternalError")


# --- groups ---


def leaves(exc):
    return [leaf for child in exc.exceptions for leaf in leaves(child)] if isinstance(exc, ExceptionGroup) else [exc]


def test_groups_are_caught_by_except_star():
    trpc.exception(Unregistered)
    sent = ExceptionGroup(
        "outer",
        [ValueError("v"), ExceptionGroup("inner", [Unregistered("u"), KeyError("k")]), UnregisteredValueError("n")],
    )
    received = hop(sent)
    assert type(received) is ExceptionGroup
    assert received.message == "outer"
    inner = received.exceptions[1]
    assert isinstance(inner, ExceptionGroup)
    assert inner.message == "inner"
    values, mine = [], []
    try:
        raise received
    except* ValueError as group:
        values += leaves(group)
    except* Unregistered as group:
        mine += leaves(group)
    except* (KeyError, RemoteError) as group:
        assert [type(leaf).__name__ for leaf in leaves(group)] == ["KeyError", "RemoteError"]
    assert [str(leaf) for leaf in values] == ["v"]
    assert [str(leaf) for leaf in mine] == ["u"]


def test_groups_over_a_second_hop():
    sent = ExceptionGroup("outer", [OSError(5, "x"), ExceptionGroup("inner", [trio.TooSlowError("t")])])
    once = hop(sent)
    twice = hop(once)
    assert [type(leaf) for leaf in leaves(twice)] == [type(leaf) for leaf in leaves(once)]
    assert [leaf.args for leaf in leaves(twice)] == [leaf.args for leaf in leaves(once)]
    assert twice.exceptions[1].message == "inner"


def test_a_subclass_of_a_group_arrives_as_a_group():
    class Mine(ExceptionGroup):
        pass

    assert type(hop(Mine("m", [ValueError()]))) is ExceptionGroup


def test_a_group_that_is_too_deep_cannot_be_sent():
    exc: Exception = ValueError()
    for _ in range(40):
        exc = ExceptionGroup("", [exc])
    with pytest.raises(EncodeError, match="nested deeper"):
        encode(exc)


# --- registered classes ---


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Detail:
    number: int
    when: dt.datetime | None = None


class OutOfStock(Exception):
    """Its constructor takes other arguments than it hands on."""

    item: uuid.UUID
    since: dt.date
    detail: Detail
    colors: list[Color]

    def __init__(self, item, *, since):
        super().__init__(f"{item} is out of stock")
        self.item = item
        self.since = since
        self.detail = Detail(3, dt.datetime(2024, 1, 2, tzinfo=dt.UTC))
        self.colors = [Color.RED]
        self.plain = (1, 2)
        self._private = object()


@dataclasses.dataclass
class DataclassError(Exception):
    code: int
    detail: Detail
    tags: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


@dataclasses.dataclass(slots=True)
class SlotsError(Exception):
    code: int


class HasKeys(Exception):
    counts: dict[int, str]

    def __init__(self, counts):
        super().__init__("counts")
        self.counts = counts


class Disk(OSError):
    """A subclass of a builtin that keeps something beside its args."""

    def __init__(self, disk):
        super().__init__(28, f"disk {disk} is full")
        self.disk = disk


class OwnRemoteError(RemoteError):
    pass


class Unhinted(Exception):
    value: "Missing"  # type: ignore[name-defined]  # noqa: F821

    def __init__(self, value):
        super().__init__(value)
        self.value = value


def test_a_registered_class_arrives_as_itself_with_its_attributes():
    assert trpc.exception(OutOfStock) is OutOfStock
    item = uuid.uuid4()
    error = hop(OutOfStock(item, since=dt.date(2024, 2, 29)))
    assert type(error) is OutOfStock
    assert error.args == (f"{item} is out of stock",)
    assert str(error) == f"{item} is out of stock"
    assert error.item == item
    assert error.since == dt.date(2024, 2, 29)
    assert error.detail == Detail(3, dt.datetime(2024, 1, 2, tzinfo=dt.UTC))
    assert error.colors == [Color.RED]
    assert error.plain == [1, 2]
    assert not hasattr(error, "_private")


def test_a_registered_class_over_a_second_hop():
    trpc.exception(OutOfStock)
    error = OutOfStock(uuid.uuid4(), since=dt.date(2024, 2, 29))
    assert vars(hop(hop(error))) == vars(hop(error))


def test_a_registered_dataclass():
    trpc.exception(DataclassError)
    sent = DataclassError(5, Detail(1), {"a", "b"})
    received = hop(sent)
    assert received == sent
    assert type(received) is DataclassError
    assert type(received.detail) is Detail
    assert type(hop(DataclassError(code=5, detail=Detail(1)))) is DataclassError


def test_a_registered_frozen_dataclass():
    trpc.exception(FrozenError)
    assert hop(FrozenError(5)) == FrozenError(5)


def test_a_registered_dataclass_with_slots():
    trpc.exception(SlotsError)
    assert hop(SlotsError(5)) == SlotsError(5)


def test_an_attribute_with_keys_that_are_not_text():
    trpc.exception(HasKeys)
    assert hop(HasKeys({1: "a"})).counts == {1: "a"}


def test_a_registered_subclass_of_a_builtin_keeps_what_the_builtin_keeps():
    trpc.exception(Disk)
    error = hop(Disk("sda"))
    assert type(error) is Disk
    assert (error.errno, error.strerror, error.disk) == (28, "disk sda is full", "sda")
    assert str(error) == "[Errno 28] disk sda is full"


def test_a_registered_subclass_of_remote_error():
    trpc.exception(OwnRemoteError)
    error = hop(OwnRemoteError("m", type_name="T"))
    assert type(error) is OwnRemoteError
    assert (error.message, error.type_name) == ("m", "T")


def test_a_registered_class_of_the_librarys_tree():
    @trpc.exception
    class AppError(trpc.RPCError):
        pass

    assert type(hop(AppError("x"))) is AppError


def test_hints_that_cannot_be_evaluated_leave_values_plain():
    trpc.exception(Unhinted)
    assert hop(Unhinted([1, "a"])).value == [1, "a"]


def test_a_subclass_of_a_registered_class_is_not_registered():
    trpc.exception(Unregistered)

    class Sub(Unregistered):
        pass

    error = hop(Sub("x"))
    assert type(error) is RemoteError
    assert error.type_name == "Sub"


def test_a_class_registered_on_the_server_only():
    trpc.exception(OutOfStock)
    body = encode(OutOfStock(uuid.uuid4(), since=dt.date(2024, 1, 1)))
    del _exceptions._registered["OutOfStock"]
    error = decode(body)
    assert type(error) is RemoteError
    assert error.type_name == "OutOfStock"
    assert error.message.endswith("is out of stock")


def test_registered_under_another_name():
    assert trpc.exception(name="app.Unregistered")(Unregistered) is Unregistered
    body = encode(Unregistered("x"))
    assert msgpack.unpackb(body)["type"] == "app.Unregistered"
    assert type(decode(body)) is Unregistered


@pytest.mark.parametrize("bad", [5, "ValueError", object, BaseException, KeyboardInterrupt, trio.Cancelled, lambda: 0])
def test_only_exception_classes_are_registered(bad):
    with pytest.raises(TypeError, match=r"registers subclasses of Exception"):
        trpc.exception(bad)


def test_two_classes_of_one_name():
    trpc.exception(name="Mine")(OutOfStock)
    with pytest.raises(ValueError, match=r"'Mine' already.*OutOfStock.*name="):
        trpc.exception(name="Mine")(Unregistered)


@pytest.mark.parametrize("name", ["ValueError", "OSError", "TooSlowError"])
def test_the_name_of_a_builtin_is_taken(name):
    with pytest.raises(ValueError, match=f"'{name}' already"):
        trpc.exception(name=name)(Unregistered)
    with pytest.raises(ValueError, match=f"'{name}' already"):
        trpc.exception(type(name, (Exception,), {}))


def test_a_module_that_is_reloaded_registers_its_class_again():
    def load():
        class Reloaded(Exception):
            pass

        return trpc.exception(Reloaded)

    load()
    second = load()
    assert type(hop(second("x"))) is second


def test_arguments_of_a_registered_class_have_to_be_sendable():
    trpc.exception(Unregistered)
    with pytest.raises(EncodeError):
        encode(Unregistered(object()))


# --- tracebacks ---


def raised():
    try:
        raise ValueError("with a traceback")
    except ValueError as exc:
        return exc


def test_tracebacks_are_not_sent_unless_asked():
    assert not hasattr(hop(raised()), "__notes__")
    assert b"Traceback" not in encode(raised())


def test_tracebacks_arrive_as_notes():
    (note,) = hop(raised(), send_traceback=True).__notes__
    assert note.startswith("Remote traceback:\nTraceback (most recent call last):")
    assert "in raised" in note
    assert note.rstrip().endswith("ValueError: with a traceback")


def test_tracebacks_of_a_group_and_of_its_leaves():
    group = hop(ExceptionGroup("g", [raised()]), send_traceback=True)
    assert "in raised" in group.exceptions[0].__notes__[0]
    assert "ExceptionGroup: g" in group.__notes__[0]


# --- errors of trpc's own ---

STATUS = {
    trpc.MethodNotFound: 2,
    trpc.InvalidArguments: 3,
    trpc.DeadlineExceeded: 4,
    trpc.Overloaded: 5,
    trpc.Unavailable: 6,
    trpc.Unauthenticated: 7,
    trpc.MessageTooLarge: 8,
    trpc.ProtocolError: 9,
}


@pytest.mark.parametrize("cls", STATUS)
def test_status_round_trip(cls):
    body = encode_status(cls("why"))
    assert msgpack.unpackb(body) == {"code": STATUS[cls], "message": "why"}
    error = decode(body)
    assert type(error) is cls
    assert error.args == ("why",)


def test_any_other_error_of_trpc_is_an_internal_one():
    body = encode_status(trpc.RPCError("why"))
    assert msgpack.unpackb(body) == {"code": 1, "message": "why"}
    error = decode(body)
    assert type(error) is RemoteError
    assert (error.type_name, error.message) == ("InternalError", "why")


def test_codes_on_the_wire():
    assert {code.name: int(code) for code in Code} == {
        "INTERNAL": 1,
        "METHOD_NOT_FOUND": 2,
        "INVALID_ARGUMENTS": 3,
        "DEADLINE_EXCEEDED": 4,
        "OVERLOADED": 5,
        "UNAVAILABLE": 6,
        "UNAUTHENTICATED": 7,
        "MESSAGE_TOO_LARGE": 8,
        "PROTOCOL_ERROR": 9,
        "RAISED": 16,
        "RAISED_BUILTIN": 17,
        "RAISED_REGISTERED": 18,
        "RAISED_GROUP": 19,
    }


def test_a_status_can_be_sent_whatever_its_text():
    # The text may come from a user's constructor, which refused an argument, or from a user's iterator.
    assert isinstance(decode(encode_status(trpc.InvalidArguments("bad value \ud800"))), trpc.InvalidArguments)


# --- malformed bodies ---


@trpc.exception
class Touchy(Exception):
    """Raises wherever a hostile server can make it."""

    def __new__(cls, *args):
        if args == ("new",):
            raise OSError("in __new__")
        if args == ("assert",):
            raise AssertionError
        return super().__new__(cls, *args)

    @property
    def value(self):
        return 1

    @value.setter
    def value(self, value):
        raise OSError("in a property")


MALFORMED = [
    b"",
    b"\xc1",
    b"\x81",
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 100_000,
    *(
        msgpack.packb(body)
        for body in [
            None,
            5,
            "text",
            b"bytes",
            [],
            ["code"],
            {},
            {"message": "no code"},
            {"code": []},
            {"code": {}},
            {"code": 1.5},
            {"code": 16.0},
            {"code": True},
            {"code": "text"},
            {"code": None},
            {"code": 16, "message": 5},
            {"code": 16, "message": b"bytes"},
            {"code": 16, "type": None},
            {"code": 17, "type": ["ValueError"]},
            {"code": 19},
            {"code": 19, "children": None},
            {"code": 19, "children": []},
            {"code": 19, "children": 5},
            {"code": 19, "children": "abc"},
            {"code": 19, "children": [5]},
            {"code": 19, "children": [{"code": 1}, {}]},
            {"code": 19, "children": {"code": 1}},
            {"code": 18, "type": "Touchy", "args": 5},
            {"code": 18, "type": "Touchy", "args": ["new"]},
            {"code": 18, "type": "Touchy", "args": ["assert"]},
            {"code": 18, "type": "Touchy", "state": 5},
            {"code": 18, "type": "Touchy", "state": ["ab", 5]},
            {"code": 18, "type": "Touchy", "state": {"value": 1}},
            {"code": 18, "type": "Touchy", "state": {"args": 5}},
            {"code": 17, "type": "ValueError", "args": 5},
            {1: 2},
        ]
    ),
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: body[:40].hex())
def test_a_body_that_cannot_be_read_gives_a_protocol_error(body):
    error = decode(body)
    assert type(error) is ProtocolError
    assert str(error).startswith("the peer's error message cannot be read: ")


@pytest.mark.parametrize(
    "body",
    [
        {"code": 99},
        {"code": 0},
        {"code": -1},
        {"code": 2**63},
        {"code": 16},
        {"code": 17},
        {"code": 17, "type": "SystemExit"},
        {"code": 17, "type": "KeyboardInterrupt"},
        {"code": 17, "type": "print"},
        {"code": 17, "type": "ExceptionGroup"},
        {"code": 17, "type": "StopIteration"},
        {"code": 18},
        {"code": 18, "type": "ValueError"},
        {"code": 18, "type": "os.system"},
    ],
)
def test_codes_and_names_that_are_not_known_are_a_remote_error(body):
    error = decode(msgpack.packb(body))
    assert type(error) is RemoteError
    assert error.type_name == body.get("type", "InternalError")


HOSTILE_ARGS = [
    [],
    [None],
    ["x", 1],
    [[], {}],
    [1, 2, 3, 4, 5],
    ["utf-8", b"a", 2**63, -1, ""],
    list("abcdefgh"),
    # Python itself cannot print a SyntaxError with a text that is none, so the caller could not log it.
    ["x", [None, None, None, False]],
    ["x", [[], {}, "line", 5]],
]


@pytest.mark.parametrize("cls", BUILTINS)
@pytest.mark.parametrize("args", HOSTILE_ARGS)
def test_a_builtin_with_any_arguments_is_that_builtin(cls, args):
    error = decode(msgpack.packb({"code": 17, "type": cls.__name__, "message": "m", "args": args}))
    assert isinstance(error, cls)
    assert error.message == str(error) == "m"
    assert traceback.format_exception(error)


@pytest.mark.parametrize("name", ["with_traceback", "add_note", "__class__", "__cause__", "_private", "__dict__"])
def test_state_from_the_peer_cannot_shadow_what_python_needs(name):
    body = {"code": 18, "type": "Touchy", "args": ["a"], "state": {name: 5}, "traceback": "tb"}
    error = decode(msgpack.packb(body))
    assert type(error) in {Touchy, ProtocolError}
    assert getattr(error, name, None) != 5
    assert traceback.format_exception(error)


# --- what the handler's exception does when it is looked at ---


def test_whatever_str_raises_is_raised():
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError("in str")

    with pytest.raises(RuntimeError, match="in str"):
        encode(Silent())


def test_a_message_that_cannot_be_sent_is_an_encode_error():
    with pytest.raises(EncodeError):
        encode(ValueError("\ud800"))


def test_an_attribute_that_cannot_be_sent_is_an_encode_error():
    trpc.exception(Unregistered)
    exc = Unregistered("x")
    exc.resource = object()
    with pytest.raises(EncodeError):
        encode(exc)


def test_an_attribute_with_a_hint_that_cannot_be_sent_stays_plain():
    @trpc.exception(name="OddHint")
    class OddHint(Exception):
        value: complex
        when: dt.date

    sent = OddHint("x")
    sent.value, sent.when = 5, dt.date(2024, 2, 29)
    error = hop(sent)
    assert (error.value, error.when) == (5, dt.date(2024, 2, 29))


def test_a_single_slot_given_as_text():
    @trpc.exception(name="OneSlot")
    class OneSlot(Exception):
        __slots__ = "tray"

    sent = OneSlot("x")
    sent.tray = 5
    assert hop(sent).tray == 5


# --- raised when it was cancelled ---


@pytest.mark.parametrize("exc", [ValueError("v"), ExceptionGroup("g", [ValueError("v"), KeyError("k")])])
def test_what_was_raised_after_a_cancel_says_so(exc):
    plain = encode_exception(exc, max_depth=64)
    marked = encode_exception(exc, max_depth=64, after_cancel=True)
    assert not is_after_cancel(plain, max_depth=64)
    assert is_after_cancel(marked, max_depth=64)
    # Whoever does not ask gets the same of both.
    assert repr(decode(marked)) == repr(decode(plain)) == repr(exc)


@pytest.mark.parametrize("value", [None, False, 0, 1, "True", b"", [], {}])
def test_nothing_but_true_says_so(value):
    assert not is_after_cancel(_codec.pack({"code": 17, "after_cancel": value}, max_depth=5), max_depth=5)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xc0", b"\x90", b"\x01", b"\x80", b"\xa1x", b"\x91" * 100])
def test_a_body_that_cannot_be_read_does_not_say_so(body):
    assert not is_after_cancel(body, max_depth=5)


def test_a_body_that_is_too_deep_does_not_say_so():
    body = _codec.pack({"after_cancel": True, "x": [[[[1]]]]}, max_depth=10)
    assert is_after_cancel(body, max_depth=10)
    assert not is_after_cancel(body, max_depth=3)
