"""The error tree: what each error is besides an RPCError, and what it carries."""

import pickle

import pytest
import trio

import trpc
from trpc import _errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (trpc.InvalidArguments, TypeError),
        (trpc.DeadlineExceeded, trio.TooSlowError),
        (trpc.ConnectionLost, trio.BrokenResourceError),
        (_errors.ClientClosed, trpc.ConnectionLost),
        (_errors.ClientClosed, trio.ClosedResourceError),
        (_errors.UnavailableOSError, trpc.Unavailable),
        (_errors.UnavailableOSError, OSError),
        (_errors.UnavailableRefusedError, trpc.Unavailable),
        (_errors.UnavailableRefusedError, ConnectionRefusedError),
    ],
)
def test_errors_are_what_people_catch_already(error, builtin):
    with pytest.raises(builtin):
        raise error("message")
    assert issubclass(error, trpc.RPCError)


def test_remote_error():
    error = trpc.RemoteError("it broke", type_name="SomeError")
    assert (error.message, error.type_name, error.args) == ("it broke", "SomeError", ("it broke",))
    assert str(error) == "SomeError: it broke"


def test_remote_error_without_a_type():
    assert trpc.RemoteError("it broke").type_name == "InternalError"


def test_connection_lost():
    error = trpc.ConnectionLost("gone", maybe_executed=False)
    assert str(error) == "gone"
    assert error.maybe_executed is False
    # Whoever does not know must assume the worse.
    assert trpc.ConnectionLost("gone").maybe_executed is True


def test_unavailable_has_the_fields_of_an_os_error():
    error = _errors.UnavailableRefusedError(111, "nothing listens")
    assert (error.errno, error.strerror) == (111, "nothing listens")


def test_errors_of_the_library_do_not_catch_each_other():
    names = [
        "RemoteError",
        "MethodNotFound",
        "InvalidArguments",
        "DeadlineExceeded",
        "ConnectionLost",
        "Overloaded",
        "Unavailable",
        "Unauthenticated",
        "MessageTooLarge",
        "ProtocolError",
    ]
    classes = [getattr(trpc, name) for name in names]
    for one in classes:
        assert [other for other in classes if issubclass(one, other)] == [one]


def test_tracebacks_name_errors_as_users_import_them():
    for error in trpc.RPCError, *trpc.RPCError.__subclasses__():
        if error.__name__ in trpc.__all__:
            assert error.__module__ == "trpc"
            assert getattr(trpc, error.__name__) is error


@pytest.mark.parametrize("error", [trpc.RPCError, trpc.MethodNotFound, trpc.InvalidArguments, trpc.DeadlineExceeded])
def test_errors_can_be_pickled(error):
    copy = pickle.loads(pickle.dumps(error("message")))
    assert type(copy) is error
    assert copy.args == ("message",)
