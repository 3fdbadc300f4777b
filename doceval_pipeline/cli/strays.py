"""Processes that a supervisor of this home started, found by a mark in their environment, and their end.

Run as a module, it ends what a supervisor left that was killed.
"""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from doceval_pipeline.embedded.processes import MARK, wait_for_end

SECONDS_TO_STOP = 15
# The embedded server may have been started by such a process, and has an end of its own.
_OF_THE_SERVER = ("postgres", "pg_ctl", "initdb")
# Words of a command line, and what people call such a process.
_NAMES = (
    ("doceval_pipeline.defs.webserver", "webserver"),
    ("dagster-daemon", "daemon"),
    ("doceval_pipeline.defs.warm", "run starter"),
    ("api grpc", "code server"),
    ("execute_run", "run"),
)


def mark_of(home: Path) -> dict[str, str]:
    """The variable by which the processes of a home's supervisor are found."""
    return {MARK: os.path.realpath(home)}


def unmarked() -> dict[str, str]:
    """The environment of a process that `strays` does not find, whoever started this one."""
    return {name: value for name, value in os.environ.items() if name != MARK}


def strays(home: Path) -> list[psutil.Process]:
    """Living processes of this user that a supervisor of `home` started, or one of those did."""
    mark, own = os.path.realpath(home), os.getuid()
    found = []
    for process in psutil.process_iter():
        # A process may end at any time, and that of a namespace may hide its environment.
        with suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.uids().real == own
                and process.environ().get(MARK) == mark
                and process.name() not in _OF_THE_SERVER
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def names_of(processes: Iterable[psutil.Process]) -> Counter[str]:
    """How many processes of each kind there are, in the words that people are told."""
    names: Counter[str] = Counter()
    for process in processes:
        with suppress(psutil.Error, OSError):
            line = " ".join(process.cmdline())
            name = next((name for word, name in _NAMES if word in line), None)
            # Runs are forks of the process that starts them, and the guard is nobody's business.
            if name is not None and not _is_fork(process, line):
                names[name] += 1
    return names


def end(processes: Iterable[psutil.Process], seconds: float = SECONDS_TO_STOP) -> None:
    """Ask processes, and all they started, to end; end those that do not within `seconds`.

    One that was stopped (Ctrl-Z, SIGSTOP) goes on first, so that it can end.
    """
    everything = []
    for process in processes:
        with suppress(psutil.Error):
            everything += [*process.children(recursive=True), process]
            process.terminate()
    for process in everything:
        with suppress(psutil.Error):
            process.resume()
    alive = wait_for_end(everything, seconds)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    wait_for_end(alive, SECONDS_TO_STOP)


def roots(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes whose parent is not in the list: each ends what it started itself."""
    everything = list(processes)
    pids = {process.pid for process in everything}
    found = []
    for process in everything:
        with suppress(psutil.Error):
            if process.ppid() not in pids:
                found.append(process)
    return found


def _is_fork(process: psutil.Process, line: str) -> bool:
    parent = process.parent()
    return parent is not None and " ".join(parent.cmdline()) == line
