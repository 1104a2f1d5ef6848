"""Where the measurement is made: what the results say of the machine, and the core for those that need just one."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource


def describe() -> dict[str, object]:
    """What somebody has to know who compares the results with their own."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: importlib.metadata.version(name) for name in ("trio", "msgpack", "msgspec")},
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def pinnable_core() -> int | None:
    """The core to which a process can be bound, or None where that cannot be done."""
    try:
        cores = os.sched_getaffinity(0)
        # Allowed or not shows only when it is tried; this changes nothing.
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError):
        return None
    return min(cores)


def most_files() -> int:
    """How many files a process can have open once it has raised its own limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if hard == resource.RLIM_INFINITY else hard
