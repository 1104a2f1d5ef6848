"""Limits: their defaults, and values that cannot be meant."""

import ast
import dataclasses
import inspect
import math

import pytest

from trpc import Limits
from trpc._messages import Hello

NAMES = [field.name for field in dataclasses.fields(Limits)]
# What the hello announces, as integers.
ANNOUNCED = [field.name for field in dataclasses.fields(Hello) if field.name in NAMES and field.name != "control_rate"]
# With a fraction, if they like.
NUMBERS = [field.name for field in dataclasses.fields(Limits) if isinstance(field.default, float)]


def test_the_defaults_that_the_documentation_promises():
    limits = Limits()
    assert limits.max_message_size == 16 * 2**20
    assert limits.max_hello_size == 16 * 2**10
    assert limits.max_depth == 64
    assert limits.max_calls == 1000
    assert limits.max_unsent == 4 * 2**20
    assert limits.stream_credit == 512 * 2**10
    assert limits.max_streams == 128
    assert limits.max_bytes_in_flight == 64 * 2**20
    assert limits.max_server_bytes_in_flight == 512 * 2**20
    assert limits.max_connections == 10_000
    assert limits.hello_timeout == 5.0
    assert limits.tls_timeout == 10.0
    assert limits.write_timeout == 10.0
    assert limits.frame_timeout == 30.0
    assert limits.keepalive_interval == 20.0
    assert limits.keepalive_timeout == 20.0
    assert limits.idle_timeout == math.inf
    assert limits.max_call_time == math.inf
    assert limits.control_burst == 1000
    assert limits.control_rate == 100.0
    assert limits.drain_grace == 10.0
    assert len(NAMES) == 21, "one is missing here"


def test_limits_are_frozen_values():
    limits = Limits(max_calls=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_calls = 6  # type: ignore[misc]
    assert limits == Limits(max_calls=5) != Limits()
    assert hash(limits) == hash(Limits(max_calls=5))
    assert dataclasses.replace(limits, max_depth=3) == Limits(max_calls=5, max_depth=3)


def test_limits_are_given_by_name():
    with pytest.raises(TypeError):
        Limits(5)  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, -math.inf])
def test_a_limit_is_positive(name, value):
    with pytest.raises(ValueError, match=rf"Limits\.{name} must be positive, not {value}"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", NAMES)
def test_the_least_and_the_large_are_accepted(name):
    assert getattr(Limits(**{name: 1}), name) == 1
    assert getattr(Limits(**{name: 2**31}), name) == 2**31


@pytest.mark.parametrize("name", NUMBERS)
def test_a_time_and_a_rate_may_be_without_bound(name):
    assert getattr(Limits(**{name: math.inf}), name) == math.inf


@pytest.mark.parametrize("name", ANNOUNCED)
@pytest.mark.parametrize("value", [1.5, math.inf])
def test_what_the_hello_announces_is_whole(name, value):
    # Every peer would refuse the hello, and neither side could tell why.
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("name", ANNOUNCED)
def test_what_no_hello_can_carry_is_refused(name):
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 2**64})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NUMBERS])
@pytest.mark.parametrize("value", [1.5, 1.0, math.inf, 2**31 + 1])
def test_what_is_counted_is_counted_in_whole_numbers(name, value):
    with pytest.raises(ValueError, match=rf"Limits\.{name} must be an integer up to"):
        Limits(**{name: value})


def test_the_credit_of_a_hello_fits_its_field():
    # The field of a grant has 32 bits.
    assert Limits(stream_credit=2**31).stream_credit < 2**32


@pytest.mark.parametrize("name", NAMES)
def test_each_default_has_its_reason_beside_it(name):
    (tree,) = ast.parse(inspect.getsource(Limits)).body
    following = {
        statement.target.id: after
        for statement, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(statement, ast.AnnAssign)
    }
    reason = following[name]
    assert isinstance(reason, ast.Expr)
    assert len(reason.value.value) > 40
