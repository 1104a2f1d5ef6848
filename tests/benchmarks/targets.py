"""The targets that trpc has set itself, computed from one run."""

from __future__ import annotations

from statistics import median

from . import figures

KiB = 1024

US = "trpc_"
WITHOUT_FRAGMENTS = "without_fragments"
REACHED, NOT_REACHED, NOT_MEASURED, STATED = "reached", "NOT REACHED", "not measured", "stated"


def rows(results: dict) -> list[dict]:
    """One for each target: what is measured, what is wanted, what was measured, and the verdict."""
    return [
        _slower_at_most(results, "sequential_async", "trio_floor", 1.3),
        _slower_at_most(results, "sequential_async", "pyro5", 1.0),
        _slower_at_most(results, "sequential_async", "trio_stream", 1.0),
        _faster_at_least(results, "flight_async", "pycapnp_", 8),
        _faster_at_least(results, "flight_async", "grpc_aio", 25),
        _faster_at_least(results, "flight_checkpoint", "pycapnp_", 3),
        _slower_at_most(results, "echo_1m", "blocking_sockets", 2),
        _slower_at_most(results, "echo_1m", _best_peer(results, "echo_1m"), 0.5),
        _faster_at_least(results, "stream_down", "grpclib_", 5),
        _faster_at_least(results, "stream_down_64k", "trio_stream", 0.6),
        _faster_at_least(results, "stream_up_64k", "trio_stream", 0.6),
        *(_latency(results, load) for load in ("reply_64m", "streams_64k", "streams_small")),
        *_idle(results),
        _busy(results),
        _import(results),
    ]


def _row(what: str, wanted: str, measured: str | None, reached: bool = False) -> dict:
    verdict = NOT_MEASURED if measured is None else REACHED if reached else NOT_REACHED
    return {"what": what, "wanted": wanted, "measured": measured or "-", "verdict": verdict}


def _compare(results: dict, work: str, ours: str, theirs: str | None) -> figures.Ratio | None:
    rounds = results["calls"].get(work, {}).get("rounds", {})
    return figures.ratio(rounds.get(ours, []), rounds.get(theirs, []))


def _slower_at_most(results: dict, work: str, other: str | None, limit: float) -> dict:
    ratio = _compare(results, work, US, other)
    measured = ratio and f"{ratio.middle:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
    return _row(
        f"{work}: time / {other or 'the best peer'}",
        f"<= {limit:g}",
        measured,
        ratio and ratio.middle <= limit,
    )


def _faster_at_least(results: dict, work: str, other: str, limit: float) -> dict:
    ratio = _compare(results, work, other, US)
    measured = ratio and f"{ratio.middle:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
    return _row(f"{work}: rate / {other}", f">= {limit:g}", measured, ratio and ratio.middle >= limit)


def _best_peer(results: dict, work: str) -> str | None:
    """The quickest contestant that is a program of its own, and not a part of the way that trpc goes."""
    summary = results["calls"].get(work, {}).get("summary", {})
    return next((key for key in summary if results["contestants"][key]["peer"]), None)


def _latency(results: dict, load: str) -> dict:
    """It has no limit: it is said, and what it is when large messages are not cut."""
    ours, uncut = (_beside(results, key, load) for key in (US, WITHOUT_FRAGMENTS))
    measured = f"{ours}, without fragments {uncut}" if ours and uncut else ours
    row = _row(f"latency: 99 % beside {load} / idle", "-", measured)
    return row if measured is None else {**row, "verdict": STATED}


def _beside(results: dict, key: str, load: str) -> str | None:
    summary = results["latency"].get(key, {}).get("summary", {})
    if load not in summary:
        return None
    p99 = summary[load]["p99"]
    return f"{p99['ratio']['middle']:.1f} ({p99['seconds'] * 1e3:.1f} ms)"


def _idle(results: dict) -> list[dict]:
    sizes = {int(n): s for n, s in results["idle"].get("held", {}).get(US, {}).items() if s}
    most = max(sizes, default=0)
    each = median(sizes[most]) / KiB if sizes else 0.0
    return [
        _row("idle connection in the server", "<= 8 KiB", f"{each:.1f} KiB" if sizes else None, each <= 8),
        _row("idle connections held at once", ">= 10,000", f"{most:,}" if sizes else None, most >= 10_000),
    ]


def _busy(results: dict) -> dict:
    """Processor time of both sides: with one connection, wall time is mostly that of waking up the other side.

    What it is of the cheapest number of connections is said too: a single one shares no pass of the loop with others.
    """
    what, wanted = "busy: CPU per call, 10 to 1,000 connections / 1", "<= 1.3"
    summary = results["busy"].get(US, {}).get("summary", {})
    ratios = [row["ratio"]["middle"] for number, row in summary.items() if number != "1" and row["ratio"]]
    if not ratios:
        return _row(what, wanted, None)
    costs = [row["cpu_per_call"] for row in summary.values()]
    measured = f"{max(ratios):.2f} ({max(costs) / min(costs):.2f} x the least)"
    return _row(what, wanted, measured, max(ratios) <= 1.3)


def _import(results: dict) -> dict:
    rounds = results["imports"].get("rounds")
    if not rounds:
        return _row("import trpc, beyond import trio", "<= 40 ms", None)
    more = (median(rounds["import trpc"]) - median(rounds["import trio"])) * 1e3
    return _row("import trpc, beyond import trio", "<= 40 ms", f"{more:.1f} ms", more <= 40)
