"""The results as plain text: tables with aligned columns."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KiB = 1024


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right, except text in the last one."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in header, *rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """In milliseconds if it is long, else in microseconds."""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def spread(ratio: dict | None) -> tuple[str, str]:
    """A ratio, and from where to where it went."""
    return (f"{ratio['middle']:.2f}", f"{ratio['low']:.2f}-{ratio['high']:.2f}") if ratio else ("-", "-")


def head(results: dict) -> str:
    machine = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"{results['date']}: {machine['cores']} x {machine['cpu']}, {machine['system']}",
        f"{machine['python']}, {packages}",
        f"{results['rounds']} rounds of bursts of {results['seconds']} s",
    ]
    lines += [f"{key}: {c['name']} {c['version']}" for key, c in results["contestants"].items()]
    lines += [f"{key}: NOT MEASURED, {reason}" for key, reason in results["absent"].items()]
    lines += [f"note: {note}" for note in results["notes"]]
    return "\n".join(lines)


def calls(name: str, results: dict) -> str:
    """One workload: all contestants, quickest first."""
    reference = results["reference"]
    unit = results["unit"]
    header = (name, f"per {unit}", f"{unit}s/s", f"x {reference}", "low-high", "CPU client", "CPU server")
    rows = [
        (
            key,
            duration(row["seconds_per_call"]),
            f"{row['calls_per_second']:,.0f}",
            *spread(row["ratio"]),
            duration(row["client_cpu_per_call"]),
            duration(row["server_cpu_per_call"]),
        )
        for key, row in results["summary"].items()
    ]
    where = ", both sides on one core" if results["one_core"] else ""
    notes = [f"{key}: {order} instead, as it cannot do this" for key, order in results["instead"].items()]
    return "\n".join([f"{results['title']}{where}", table(header, rows), *notes, *_failures(results)])


def latency(results: dict[str, dict]) -> str:
    """What a call takes beside something else."""
    header = (
        "latency",
        "beside",
        "calls",
        "median",
        "x idle",
        "low-high",
        "99 %",
        "x idle",
        "low-high",
        "load items/s",
    )
    rows = [
        (
            key,
            load,
            f"{row['calls']:,}",
            *_percentile(row["p50"]),
            *_percentile(row["p99"]),
            f"{row['moved_per_second']:,.1f}",
        )
        for key, result in results.items()
        for load, row in result["summary"].items()
    ]
    failures = [line for result in results.values() for line in _failures(result)]
    return "\n".join(["one call at a time, beside a load on the same connection", table(header, rows), *failures])


def _percentile(figure: dict) -> tuple[str, str, str]:
    return duration(figure["seconds"]), *spread(figure["ratio"])


def busy(results: dict[str, dict]) -> str:
    """What a call costs with more and more busy connections."""
    header = ("busy", "connections", "per call", "calls/s", "CPU per call", "CPU x 1 connection", "low-high")
    rows = [
        (
            key,
            number,
            duration(row["seconds_per_call"]),
            f"{row['calls_per_second']:,.0f}",
            duration(row["cpu_per_call"]),
            *spread(row["ratio"]),
        )
        for key, result in results.items()
        for number, row in sorted(result["summary"].items(), key=lambda item: int(item[0]))
    ]
    failures = [line for result in results.values() for line in _failures(result)]
    return "\n".join(["many connections, one call at a time on each", table(header, rows), *failures])


def idle(results: dict) -> str:
    """Memory of a connection on which nothing happens."""
    header = ("idle", "connections", "KiB each", "low-high")
    rows = [
        (key, number, f"{median(sizes) / KiB:.1f}", f"{min(sizes) / KiB:.1f}-{max(sizes) / KiB:.1f}")
        for key, held in results["held"].items()
        for number, sizes in held.items()
        if sizes
    ]
    return "\n".join(
        ["memory of the server's process for an idle connection", table(header, rows), *_failures(results)]
    )


def imports(results: dict) -> str:
    """Whole processes; the first statement does nothing, so that the others can be seen against it."""
    trio = median(results["rounds"]["import trio"])
    header = ("import", "process", "beyond trio", "x trio")
    rows = [
        (statement, duration(median(times)), f"{(median(times) - trio) * 1e3:+.1f} ms", f"{median(times) / trio:.2f}")
        for statement, times in results["rounds"].items()
    ]
    return "\n".join(["python -c '...'", table(header, rows)])


def targets(rows: Sequence[dict]) -> str:
    header = ("target", "wanted", "measured", "")
    return table(header, [(row["what"], row["wanted"], row["measured"], row["verdict"]) for row in rows])


def _failures(results: dict) -> list[str]:
    return [f"{label}: FAILED, {reason}" for label, reason in results["failures"].items()]


def everything(results: dict) -> str:
    parts = [head(results)]
    parts += [calls(name, result) for name, result in results["calls"].items()]
    if results["latency"]:
        parts.append(latency(results["latency"]))
    if results["busy"]:
        parts.append(busy(results["busy"]))
    if results["idle"]:
        parts.append(idle(results["idle"]))
    if results["imports"]:
        parts.append(imports(results["imports"]))
    parts.append("targets\n" + targets(results["targets"]))
    return "\n\n".join(parts)
