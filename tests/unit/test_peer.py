"""The other end of a connection, as users see it."""

import gc
import weakref

import pytest

from trpc import Peer, UnixPeer
from trpc._peer import set_identity


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


def test_what_may_be_secret_is_not_shown():
    peer = Peer("here", {"password": "x"}, {"subject": "y"}, UnixPeer(1, 2, 3))
    assert repr(peer) == "Peer(address='here', unix=UnixPeer(pid=1, uid=2, gid=3))"
    assert str(peer) == "here"


def test_who_it_is_is_set_once_by_the_connection():
    peer = Peer("here")
    assert peer.identity is None
    set_identity(peer, "ann")
    assert peer.identity == "ann"
