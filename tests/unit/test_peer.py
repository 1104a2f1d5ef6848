"""The other end of a connection, as users see it."""

import gc
import weakref

import pytest

from trpc import Peer


def test_peers_are_compared_by_identity_and_can_key_a_weak_dictionary():
    one, two = Peer("same"), Peer("same")
    assert one != two
    state = weakref.WeakKeyDictionary({one: 1, two: 2})
    assert state[one] == 1
    del one
    gc.collect()
    assert list(state.values()) == [2]
    assert str(two) == "same"


def test_peers_are_frozen():
    peer = Peer("here")
    with pytest.raises(AttributeError):
        peer.address = "there"
    assert peer.address == "here"
