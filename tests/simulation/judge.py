"""How the calls of a simulated world may end."""

from __future__ import annotations

import reprlib

import trio

import trpc

from .workload import Planned, leaves_of


class Judge:
    """Says what is wrong with how a call ended.

    Args:
        world: knows which faults there were.
    """

    def __init__(self, world):
        self._world = world
        self._executions = world.book.executions

    def __call__(self, call):
        """What is wrong, or None."""
        runs = self._executions[call.key]
        if call.endings != 1:
            return f"ended {call.endings} times"
        if runs > 1:
            return f"ran {runs} times"
        outcome = call.outcome
        if call.link.is_refused and runs:
            return "it ran although the client is nobody"
        if outcome == "cancelled":
            return None if call.may_be_cancelled or call.depth else "cancelled by nobody"
        if not isinstance(outcome, Exception):
            return self._judge_value(call, runs)
        leaves = leaves_of(outcome)
        others = [leaf for leaf in leaves if not self._is_planned(call, leaf)]
        if len(others) < len(leaves) and not (call.raises or call.may_raise):
            return "raised by nobody"
        if not others:
            # A producer that is cancelled raises here what it could not tell the handler.
            return None if runs == 1 or call.streams_up else f"raised by a handler that ran {runs} times"
        if len(others) > 1 and call.streams_up:
            # A producer and the call itself have failed in one pass.
            others = [leaf for leaf in others if not isinstance(leaf, trpc.MessageTooLarge)]
        if len(others) > 1:
            return "a group of other errors than planned"
        return self._judge_error(call, others[0], runs)

    def _judge_value(self, call, runs):
        if call.raises:
            return "nothing was raised"
        if call.link.is_refused and call.runs:
            return "a result for a client that is nobody"
        if call.error is not None:
            return f"no {call.error.__name__}"
        if call.value is not ... and call.outcome != call.value:
            return f"the value is not {reprlib.repr(call.value)}"
        if call.runs is not None and runs != int(call.runs):
            return f"a result although it ran {runs} times"
        # A message may be larger than its limit only if there is no limit.
        if call.runs and not call.streams_up and call.bytes_up > call.link.limits_of(call).max_message_size:
            return "larger than the peer accepts"
        return None

    @staticmethod
    def _is_planned(call, leaf):
        return (
            isinstance(leaf, Planned | KeyError)
            and leaf.args == (call.key,)
            or (isinstance(leaf, trpc.RemoteError) and leaf.message == repr(call.key))
        )

    def _judge_error(self, call, exc, runs):  # noqa: PLR0911
        link, limits = call.link, call.link.limits_of(call)
        not_run = None if runs == 0 else f"it ran {runs} times"
        match exc:
            case trio.TooSlowError() if not isinstance(exc, trpc.RPCError):
                return None if call.may_be_cancelled else "timed out by nobody"
            case trpc.ConnectionLost():
                if not exc.maybe_executed and runs:
                    return "maybe_executed is False, but it ran"
                may_be_lost = link.may_be_lost(call) or (link.may_miss_refusal and not runs)
                return None if may_be_lost else "lost for no reason"
            case trpc.MethodNotFound() | trpc.InvalidArguments() if call.error is type(exc):
                return not_run
            case trpc.Overloaded():
                return not_run if link.has_small() else "overloaded by little"
            case trpc.Unavailable():
                is_refused = link.may_be_refused or call.key in self._world.guards.refused
                return not_run if is_refused else "refused for no reason"
            case trpc.Unauthenticated():
                return not_run if link.is_refused or link.has_timeouts else "not authenticated, it says"
            case trpc.MessageTooLarge() if "no room" in str(exc) and link.has_small_bytes:
                return None
            case trpc.MessageTooLarge():
                if max(call.bytes_up, call.bytes_down) + 300 < min(limits.max_message_size, link.smallest_message):
                    return "too large, it says"
                # What is too large for the receiver of the request never runs.
                return not_run if call.bytes_up > limits.max_message_size and not call.streams_up else None
            case trpc.ProtocolError() | trpc.RemoteError() if "cannot be read" in str(exc) and link.has_small_bytes:
                # What the peer had no room for.
                return None
            case trpc.DeadlineExceeded():
                return None if link.has_call_time else "no such limit"
        return "an error that nothing explains"
