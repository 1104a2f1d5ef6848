"""What a client shows of itself."""

import dataclasses

import pytest

from trpc import Credentials

SECRET = "s€cret"


def credentials(token=SECRET):
    return Credentials(token, None, None, "here")


@pytest.mark.parametrize(
    ("token", "expected", "has"),
    [(SECRET, SECRET, True), (SECRET, "secret", False), (None, SECRET, False), ("", SECRET, False), ("x", "xx", False)],
)
def test_the_token(token, expected, has):
    assert credentials(token).has_token(expected) is has


@pytest.mark.parametrize("token", [None, "", "x"])
def test_an_empty_token_is_a_mistake(token):
    with pytest.raises(ValueError, match="the expected token is empty"):
        credentials(token).has_token("")


def test_the_token_is_not_shown():
    assert SECRET not in f"{credentials()!r}{credentials()}"
    assert "here" in repr(credentials())


def test_they_are_compared_by_identity_and_frozen():
    assert credentials() != credentials()
    with pytest.raises(dataclasses.FrozenInstanceError):
        credentials().token = "x"
