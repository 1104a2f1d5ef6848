"""The token bucket, by times that the test says."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from trpc._rate import Rate


@pytest.mark.parametrize("start", [0, 1e6, 1e6 + 1 / 3])
@pytest.mark.parametrize(("burst", "rate"), [(1, 1), (1, 1000), (10, 0.1), (1000, 100), (7, 3), (2.5, 0.3)])
def test_so_many_at_once_and_then_so_many_a_second(start, burst, rate):
    bucket = Rate(burst, rate)
    for _ in range(int(burst)):
        assert bucket.wait(start) == 0
        assert bucket.spend(start)
    assert not bucket.spend(start)
    now = start
    for _ in range(50):
        wait = bucket.wait(now)
        assert 0 < wait <= 1 / rate * (1 + 1e-6)
        now += wait
        assert bucket.spend(now)
        assert not bucket.spend(now)


def test_it_is_never_more_than_full():
    bucket = Rate(3, 1)
    assert bucket.spend(1000, 3)
    assert not bucket.spend(1000)
    assert not bucket.spend(2_000_000, 4)
    assert bucket.spend(2_000_000, 3)


def test_several_are_taken_together_or_not_at_all():
    bucket = Rate(10, 1)
    assert bucket.spend(0, 6)
    assert not bucket.spend(0, 5)
    assert bucket.spend(0, 4)
    assert not bucket.spend(0)
    assert not bucket.spend(5, 6)
    assert bucket.spend(5, 5)


def test_without_a_bound():
    bucket = Rate(1, math.inf)
    assert all(bucket.spend(0, 1000) for _ in range(10))
    assert bucket.wait(0) == 0


@given(st.integers(1, 50), st.floats(0.1, 100), st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), max_size=100))
def test_in_no_time_are_there_more_than_it_says(burst, rate, steps):
    bucket = Rate(burst, rate)
    now, spent = 0.0, []
    for wait, number in steps:
        now += wait
        if bucket.spend(now, number):
            spent.append((now, number))
        for begin in {when for when, _ in spent}:
            number = sum(number for when, number in spent if when >= begin)
            assert number <= burst + rate * (now - begin) + rate * 1e-5
