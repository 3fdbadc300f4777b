"""Finds and ends the processes that a supervisor of this home started, by a mark in their environment."""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from doceval_pipeline.embedded.processes import MARK, wait_for_end

SECONDS_TO_STOP = 15
# The embedded server may have been started by such a process, but is stopped separately.
_OF_THE_SERVER = ("postgres", "pg_ctl", "initdb")
# Words of a command line, and the name of such a process for people.
_NAMES = (
    ("doceval_pipeline.defs.webserver", "webserver"),
    ("doceval_pipeline.defs.daemon", "daemon"),
    ("doceval_pipeline.defs.warm", "run starter"),
    ("api grpc", "code server"),
    ("execute_run", "run"),
)


def mark_of(home: Path) -> dict[str, str]:
    """The environment variable that marks the processes of a home's supervisor."""
    return {MARK: os.path.realpath(home)}


def unmarked() -> dict[str, str]:
    """This environment without the mark, for a process that `strays` must not find."""
    return {name: value for name, value in os.environ.items() if name != MARK}


def strays(home: Path) -> list[psutil.Process]:
    """Living processes of this user that a supervisor of `home` started, directly or not."""
    mark, own = os.path.realpath(home), os.getuid()
    processes = []
    for process in psutil.process_iter():
        # A process may end at any time, and one in a namespace may hide its environment.
        with suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.uids().real == own
                and process.environ().get(MARK) == mark
                and process.name() not in _OF_THE_SERVER
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                processes.append(process)
    return processes


def names_of(processes: Iterable[psutil.Process]) -> Counter[str]:
    """Number of processes of each kind, by their name for people."""
    names: Counter[str] = Counter()
    for process in processes:
        with suppress(psutil.Error, OSError):
            line = " ".join(process.cmdline())
            name = next((name for word, name in _NAMES if word in line), None)
            # Runs are forks of the process that starts them; the guard is not reported.
            if name is not None and not _is_fork(process, line):
                names[name] += 1
    return names


def end(processes: Iterable[psutil.Process], seconds: float = SECONDS_TO_STOP) -> None:
    """Terminate processes and all their children; kill those that have not ended after `seconds`.

    A stopped process (Ctrl-Z, SIGSTOP) is resumed first, so that it can end.
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
    """The processes whose parent is not in the list: each ends its own children."""
    everything = list(processes)
    pids = {process.pid for process in everything}
    topmost = []
    for process in everything:
        with suppress(psutil.Error):
            if process.ppid() not in pids:
                topmost.append(process)
    return topmost


def _is_fork(process: psutil.Process, line: str) -> bool:
    parent = process.parent()
    return parent is not None and " ".join(parent.cmdline()) == line
