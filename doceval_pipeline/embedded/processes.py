"""Whose a process is, and waiting for its end, also where it is not a child of this one."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

# Inherited by all that a supervisor's processes start: code servers, runs and the process that starts runs.
MARK = "DOCEVAL_SUPERVISED_HOME"


def still_there(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end, at most for some seconds; returns those that did not.

    A zombie has ended: in a container nobody may ever ask for its exit code.
    """
    deadline = time.monotonic() + seconds
    left = list(processes)
    while (left := [process for process in left if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)  # only a parent is told of an end
    return left


def is_supervised(home: Path) -> bool:
    """Whether a supervisor of this home has started this process, or a process that did."""
    return os.environ.get(MARK) == os.path.realpath(home)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
