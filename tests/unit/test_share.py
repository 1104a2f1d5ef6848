"""Bytes in flight: of one connection, and of all that share a pool."""

from __future__ import annotations

import pytest

from trpc import Limits
from trpc._host import Host
from trpc._share import FREE, Pool, Share

KiB = 1024
LIMITS = Limits(max_bytes_in_flight=1000 * KiB, max_message_size=KiB, max_calls=1)


@pytest.mark.parametrize("size", [1, 500 * KiB, 1000 * KiB])
def test_as_much_as_a_connection_may_hold(size):
    share = Share(LIMITS)
    assert share.has_room(1000 * KiB)
    assert not share.has_room(1000 * KiB + 1)
    for _ in range(1000 * KiB // size if size > 1 else 10):
        assert share.take(size)
    share.add(1000 * KiB - share.taken)
    assert not share.has_room(1)
    assert not share.take(1)
    assert share.taken == 1000 * KiB
    share.give_back(1)
    assert share.take(1)
    assert not share.take(1)


@pytest.mark.parametrize(
    ("limits", "room"),
    [
        (Limits(max_bytes_in_flight=1, max_message_size=50, max_calls=3), 50 + 3 * KiB),
        (Limits(max_bytes_in_flight=50 + 3 * KiB + 1, max_message_size=50, max_calls=3), 50 + 3 * KiB + 1),
    ],
)
def test_one_message_fits_in_any_case_and_a_kib_of_each_call(limits, room):
    share = Share(limits)
    assert share.has_room(room)
    assert not share.has_room(room + 1)


def test_what_is_free_is_so_although_others_have_taken_all():
    pool = Pool(300 * KiB)
    one, two = Share(LIMITS, pool), Share(LIMITS, pool)
    assert one.take(300 * KiB)
    assert not one.take(1)
    assert two.take(FREE)
    assert pool.taken == 300 * KiB + FREE
    assert not two.take(1)
    one.give_back(FREE)
    assert not two.take(1), "this was not there to be given"
    one.give_back(1)
    assert two.take(1)
    assert not two.take(1)


def test_what_is_added_is_held_whether_there_is_room_or_not():
    pool = Pool(10)
    share = Share(LIMITS, pool)
    share.add(2000 * KiB)
    assert (share.taken, pool.taken) == (2000 * KiB, 2000 * KiB)
    assert not share.has_room(0)
    share.give_back(2000 * KiB)
    assert (share.taken, pool.taken) == (0, 0)


def test_the_end_gives_all_back_and_only_that():
    pool = Pool(10**9)
    one, two = Share(LIMITS, pool), Share(LIMITS, pool)
    one.add(5)
    two.add(7)
    one.close()
    assert (one.taken, two.taken, pool.taken) == (0, 7, 7)
    one.close()
    assert pool.taken == 7


def test_a_host_has_the_pool_of_its_connections():
    host = Host({}, Limits(max_server_bytes_in_flight=123))
    assert (host.pool.size, host.pool.taken) == (123, 0)
    assert host.limits == Limits(max_server_bytes_in_flight=123)
    assert not host.draining.is_set()
    assert (host.table, host.send_tracebacks, host.interceptors, host.outgoing_interceptors) == ({}, False, (), ())
    assert Host({}).limits == Limits()
