"""Error messages of a peer, however malformed, and exceptions of a handler, whatever they carry."""

import builtins
import traceback

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import HealthCheck, given, settings

import trpc
from trpc._codec import EncodeError
from trpc._exceptions import Code, decode_error, encode_exception

NOT_SENT = (StopIteration, StopAsyncIteration, BaseExceptionGroup)
NAMES = sorted({c.__name__ for c in vars(builtins).values() if isinstance(c, type) and issubclass(c, BaseException)})


@trpc.exception
class Registered(Exception):
    number: int
    names: list[str]

    def __new__(cls, *args):
        if args[:1] == (0,):
            raise OSError("a constructor may raise anything")
        return super().__new__(cls, *args)

    @property
    def derived(self):
        return self.number + 1


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), texts, st.binary(max_size=10)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
attributes = st.sampled_from(
    ["number", "names", "derived", "args", "add_note", "with_traceback", "__class__", "message"]
)


def errors(children):
    return st.fixed_dictionaries(
        {},
        optional={
            "code": st.sampled_from([int(code) for code in Code]) | values,
            "type": st.sampled_from([*NAMES, "TooSlowError", "Registered"]) | values,
            "message": values,
            "args": st.lists(values, max_size=6) | st.just([0]) | values,
            "state": st.dictionaries(attributes, values, max_size=4) | values,
            "children": st.lists(children, max_size=3) | values,
            "traceback": texts | values,
        },
    )


anything = st.recursive(errors(values), errors, max_leaves=4) | values


def check(error):
    """It is an exception that a caller can be given, and can log."""
    assert isinstance(error, trpc.RPCError | Registered | ExceptionGroup)
    if isinstance(error, ExceptionGroup):
        for child in error.exceptions:
            check(child)
    assert type(error.args) is tuple
    assert traceback.format_exception(error)
    with pytest.raises(type(error)):
        raise error


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=1500)
@given(body=anything.map(msgpack.packb))
def test_any_value_is_an_error_that_can_be_raised(body):
    check(decode_error(body, max_depth=64))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=500)
@given(body=st.binary(max_size=100))
def test_any_bytes_are_an_error_that_can_be_raised(body):
    check(decode_error(body, max_depth=64))


classes = st.sampled_from(
    [
        *(
            cls
            for name in NAMES
            if issubclass(cls := getattr(builtins, name), Exception) and not issubclass(cls, NOT_SENT)
        ),
        trpc.RPCError,
        trpc.MethodNotFound,
        trpc.RemoteError,
        type("Unknown", (Exception,), {}),
        type("ValueError", (Exception,), {}),
    ]
)


@st.composite
def raised(draw):
    """An exception as handlers raise it, or one that somebody has built in an odd way."""
    cls = draw(classes)
    args = draw(st.lists(values | st.just({1: 2}) | st.builds(object), max_size=5))
    try:
        return cls(*args)
    except TypeError:
        exc = cls.__new__(cls)
        exc.args = tuple(args)
        if isinstance(exc, trpc.RemoteError):
            exc.message, exc.type_name = "m", "T"
        return exc


trees = st.recursive(
    raised(),
    lambda inner: st.builds(ExceptionGroup, texts, st.lists(inner, min_size=1, max_size=3)),
    max_leaves=5,
)


def can_be_printed(exc):
    try:
        traceback.format_exception(exc)
    except Exception:  # a SyntaxError may hold things that Python itself cannot print
        return False
    return True


def shape(exc):
    return [shape(child) for child in exc.exceptions] if isinstance(exc, ExceptionGroup) else "leaf"


def summary(exc):
    if isinstance(exc, ExceptionGroup):
        return exc.message, [summary(child) for child in exc.exceptions]
    return type(exc), getattr(exc, "type_name", None), getattr(exc, "message", None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=500)
@given(exc=trees, send_traceback=st.booleans())
def test_exceptions_arrive_in_the_same_tree_and_pass_through_unchanged(exc, send_traceback):
    try:
        body = encode_exception(exc, send_traceback=send_traceback and can_be_printed(exc), max_depth=64)
    except EncodeError:
        return
    first = decode_error(body, max_depth=64)
    check(first)
    assert shape(first) == shape(exc)
    second = decode_error(encode_exception(first, send_traceback=False, max_depth=64), max_depth=64)
    assert summary(second) == summary(first)
