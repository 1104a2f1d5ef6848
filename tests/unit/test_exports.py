"""What `import trpc` offers."""

import inspect
import re
import types

import pytest

import trpc

# The contract with users. A name that comes or goes is an entry in the changelog.
ERRORS = {
    "ConnectionLost",
    "DeadlineExceeded",
    "InvalidArguments",
    "MessageTooLarge",
    "MethodNotFound",
    "Overloaded",
    "ProtocolError",
    "RPCError",
    "RemoteError",
    "Unauthenticated",
    "Unavailable",
}
FUNCTIONS = {
    "connect",
    "connect_stream",
    "current_call",
    "drain_on_signal",
    "exception",
    "log_calls",
    "metadata",
    "method",
    "serve_listeners",
    "serve_stream",
    "serve_tcp",
    "serve_unix",
    "service",
}
CLASSES = {
    "Call",
    "CallInfo",
    "Client",
    "ConnectionInfo",
    "CurrentCall",
    "Limits",
    "Peer",
    "Reflection",
    "Server",
    "UnixPeer",
}
# What the reflection gives: plain data.
DATA = {
    "Activity",
    "CallActivity",
    "ConnectionActivity",
    "FieldInfo",
    "MethodInfo",
    "ParameterInfo",
    "ServiceInfo",
    "TypeInfo",
}
# They have none of their own.
ALIASES = {"Interceptor", "Proceed"}


def test_all_is_sorted():
    assert trpc.__all__ == sorted(trpc.__all__)


def test_all_is_what_is_public():
    public = {
        name
        for name, value in vars(trpc).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(trpc.__all__) == public | {"__version__"}


def test_all_has_the_names_of_the_contract():
    assert set(trpc.__all__) >= ERRORS | FUNCTIONS | CLASSES | DATA | ALIASES


def test_modules_that_are_not_private_are_meant_for_users():
    modules = {name for name, value in vars(trpc).items() if isinstance(value, types.ModuleType)}
    assert {name for name in modules if not name.startswith(("_", "@"))} <= {"testing"}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_error_is_an_rpc_error(name):
    assert issubclass(getattr(trpc, name), trpc.RPCError)


def test_every_exported_exception_is_an_rpc_error():
    exceptions = {
        name
        for name in trpc.__all__
        if inspect.isclass(cls := getattr(trpc, name))
        and issubclass(cls, BaseException)
        and not issubclass(cls, Warning)
    }
    assert exceptions == ERRORS


@pytest.mark.parametrize("name", sorted(set(trpc.__all__) - {"__version__"} - ALIASES))
def test_public_names_have_docstrings(name):
    value = getattr(trpc, name)
    assert value.__doc__
    if inspect.isclass(value):
        assert vars(value)["__doc__"], "the docstring is inherited"
    # A dataclass without one gets its signature for a docstring.
    assert not value.__doc__.startswith(f"{name}(")


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_public_members_have_docstrings(name):
    for attribute, member in vars(getattr(trpc, name)).items():
        if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert member.__doc__, f"{name}.{attribute}"


@pytest.mark.parametrize("name", sorted(FUNCTIONS - {"method", "service", "exception", "metadata"}))
def test_options_are_keyword_only(name):
    parameters = inspect.signature(getattr(trpc, name)).parameters.values()
    assert [p.name for p in parameters if p.default is not p.empty and p.kind is not p.KEYWORD_ONLY] == []


def test_the_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+|\.dev\d+)?", trpc.__version__)
