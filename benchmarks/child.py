"""Runs one piece of work in a separate process and reports its cost: `python -m benchmarks.child`.

Reads one line of JSON, {"work": "module:function", "parameters": {…}}, and writes one. The function
prepares and returns the timed function, so that imports and connections are not timed.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.server import ServerMeter, status_bytes, wal_position
from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.settings import Settings

Figures = dict[str, Any]
Timed = Callable[[], Figures]
Work = Callable[..., Timed]


def name_of(work: Work) -> str:
    """The name under which another process finds a function."""
    return f"{work.__module__}:{work.__qualname__}"


def measure(work: Work, databases: Databases, parameters: dict[str, Any]) -> dict[str, Any]:
    """Prepare the work, then run and time it.

    Returns
    -------
    dict
        `seconds` elapsed; `client_cpu` and `server_cpu` in seconds; `wal_bytes`; `client_bytes`,
        the peak memory of this process above its use before; `figures`, reported by the work itself.
    """
    timed = work(databases, **parameters)
    meter = ServerMeter(databases.settings.home)
    wal, server_cpu, client_cpu = wal_position(databases.knowledge), meter.cpu_seconds(), _cpu_seconds()
    idle = _forget_peak()
    started = time.perf_counter()
    figures = timed()
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "client_cpu": _cpu_seconds() - client_cpu,
        "server_cpu": meter.cpu_seconds() - server_cpu,
        "wal_bytes": wal_position(databases.knowledge) - wal,
        "client_bytes": max(0, status_bytes(os.getpid(), "VmHWM") - idle),
        "figures": figures,
    }


def _cpu_seconds() -> float:
    """CPU time of this process and of the children it waited for."""
    accounts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(account.ru_utime + account.ru_stime for account in accounts)


def _forget_peak() -> int:
    """Reset the kernel's record of this process's peak memory; returns its current use in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes(os.getpid(), "VmRSS")


def main() -> None:
    """Read a request from standard input, run its work, and write the figures."""
    request = json.loads(sys.stdin.readline())
    module, function = request["work"].split(":")
    work = getattr(import_module(module), function)
    databases = open_databases(Settings.from_environment())
    # Output of libraries must not mix with the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(measure(work, databases, request["parameters"])), file=answer)


if __name__ == "__main__":
    main()
