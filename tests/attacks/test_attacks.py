"""Hostile peers harm nobody but themselves: what holds however fast the machine is. ``python -m tests.attacks`` measures.

Attacks of one group run at the same time, against one server.
"""

from __future__ import annotations

import pytest
import trustme

from tests.attacks import run
from tests.attacks.catalogue import ATTACKS

SECONDS = 1.0

# Those with which the server cannot but be busy for a while, apart from what is closed in time.
GROUPS = [
    ["zero_length", "over_limit", "longest", "http", "tls_to_plain", "random_bytes"],
    ["connection_flood"],
    ["slow_handshake", "stalled_tls", "half_frames"],
    # Not beside those which take all bytes that there are: it would get errors instead of what it does not read.
    ["never_reads"],
    ["rapid_reset", "ping_flood", "unknown_methods", "bad_arguments"],
    ["notify_flood", "notify_overload", "ids_reused", "ids_decreasing", "future_cancels"],
    ["calls_in_flight", "fragments_unfinished"],
    ["streams_unfed", "streams_uncredited", "credit_overflow", "credit_beyond"],
    ["header_bomb", "deep"],
    ["empty_maps", "huge_metadata"],
]


def test_every_attack_is_in_a_group():
    assert sorted(name for group in GROUPS for name in group) == sorted(ATTACKS)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    with run.field(run.certificate(tmp_path_factory.mktemp("tls"), trustme.CA())) as field:
        # What is only there from the first calls on is not put down to an attack.
        assert field.call(0.1)["failures"] == 0
        yield field


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: "-".join(names))
def test_it_is_bounded_and_the_others_are_served(field, names):
    assert run.faults(field.attack(*names, seconds=SECONDS)) == []
    assert field.server.is_alive
