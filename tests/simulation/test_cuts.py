"""A session that is cut behind every byte, in either direction: each call ends once, and says rightly whether it may have run.

``python -m tests.simulation --cuts`` cuts all of them everywhere; here, those parts where they differ.
"""

from __future__ import annotations

import traceback

import pytest

import trpc
from trpc._messages import Kind, decode_request
from trpc.testing import Faults

from .sessions import ALL, SMALL, TERMINAL, faults_of_lines, messages_of, play, same

WAYS = [(direction, cut) for direction in ("up", "down") for cut in ("eof", "reset")]


class Recorded:
    """A session that was played without faults, and where its messages are.

    Attributes:
        requests, replies: by the number of the call, its request and its terminal reply.
        hellos: where the hello of each direction ends.
    """

    def __init__(self, session):
        self.session = session
        self.played = play(session)
        up, down = messages_of(self.played.up), messages_of(self.played.down)
        self.requests = {message.id: message for message in up if message.kind == Kind.REQUEST}
        self.replies = {message.id: message for message in down if message.kind in TERMINAL}
        self.keys = {
            number: decode_request(request.body, max_depth=64).args[0] for number, request in self.requests.items()
        }
        assert sorted(self.keys.values()) == sorted(self.played.stage.outcomes)
        assert set(self.requests) == set(self.replies)
        self.hellos = {"up": up[0].end, "down": down[0].end}
        self.sizes = {"up": len(self.played.up), "down": len(self.played.down)}

    def cut(self, direction, how, offset):
        """Plays it again, cut behind so many bytes of a direction, and looks at what became of each call."""
        faults = Faults(cut_after=offset, cut=how)
        stage = play(self.session, **{"there" if direction == "up" else "back": faults}).stage
        for number, key in self.keys.items():
            outcome = stage.outcomes.get(key)
            try:
                self._check_call(number, stage, outcome, direction, offset)
            except AssertionError as exc:
                exc.add_note(f"{self.session.__name__}, {direction} {how} after {offset}: call {key}: {outcome!r}")
                raise
        for key, outcome in stage.calls_back.items():
            self._check_lost(outcome, stage.executions[key])

    def _check_call(self, number, stage, outcome, direction, offset):
        key = self.keys[number]
        runs = stage.executions[key]
        self._check_lost(outcome, runs)
        expected = self.played.stage.outcomes[key]
        request, reply = self.requests[number], self.replies[number]
        if direction == "up" and offset < request.end:
            assert runs == 0, "its request has not arrived"
            assert isinstance(outcome, trpc.ConnectionLost) or outcome == "cancelled"
        elif direction == "down" and offset >= reply.end:
            assert same(outcome, expected), "its reply has arrived"
        elif direction == "down":
            may_be_same = expected == "cancelled" or key in stage.left
            assert isinstance(outcome, trpc.ConnectionLost) or (may_be_same and same(outcome, expected))
        if isinstance(outcome, trpc.ConnectionLost):
            if key in stage.late:
                assert not outcome.maybe_executed, "there was no connection any more"
            if direction == "up" and offset >= request.end:
                assert outcome.maybe_executed, "its request has arrived"
        else:
            assert same(outcome, expected)

    @staticmethod
    def _check_lost(outcome, runs):
        assert runs <= 1
        assert outcome != "never ended"
        if isinstance(outcome, trpc.ConnectionLost) and not outcome.maybe_executed:
            assert runs == 0


@pytest.mark.parametrize(("direction", "how"), WAYS)
@pytest.mark.parametrize("session", SMALL, ids=lambda session: session.__name__)
def test_cut_behind_every_byte(session, direction, how):
    recorded = Recorded(session)
    # All sessions have the same hello.
    hello = range(0, recorded.hellos[direction], 2) if session is SMALL[0] else ()
    for offset in (*hello, *range(recorded.hellos[direction], recorded.sizes[direction] + 1)):
        recorded.cut(direction, how, offset)


@pytest.mark.parametrize(("direction", "how"), WAYS)
def test_large_messages_cut_behind_some_bytes(direction, how):
    recorded = Recorded(ALL[-1])
    for offset in range(recorded.hellos[direction], recorded.sizes[direction] + 1, 13):
        recorded.cut(direction, how, offset)


LINES = faults_of_lines()


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("session", ALL, ids=lambda session: session.__name__)
def test_a_bad_line_gives_the_same_results_later(session, line):
    expected = play(session)
    for seed in range(2):
        played = play(session, there=LINES[line], back=LINES[line], seed=seed)
        outcomes, plain = played.stage.outcomes, expected.stage.outcomes
        assert set(outcomes) == set(plain)
        for key, outcome in outcomes.items():
            assert same(outcome, plain[key])
        assert played.stage.executions == expected.stage.executions
        assert played.seconds >= expected.seconds


def run_all():
    """Cuts every session behind every byte; says whether something did not hold."""
    failures = cuts = 0
    for session in ALL:
        recorded = Recorded(session)
        for direction, how in WAYS:
            for offset in range(recorded.sizes[direction] + 1):
                cuts += 1
                try:
                    recorded.cut(direction, how, offset)
                except Exception:
                    traceback.print_exc()
                    print(f"FAILED: {session.__name__}, {direction} {how} after {offset}\n", flush=True)
                    failures += 1
        print(f"{session.__name__}: {recorded.sizes}; {cuts} cuts so far, {failures} failures", flush=True)
    return bool(failures)
