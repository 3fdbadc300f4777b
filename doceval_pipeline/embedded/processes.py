"""Recognises supervised processes, and waits for processes that need not be children of this one."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

# Inherited by all processes of a supervisor: code servers, runs and the process that starts runs.
MARK = "DOCEVAL_SUPERVISED_HOME"


def wait_for_end(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait at most `seconds` for processes to end; returns those that still run.

    A zombie counts as ended: in a container its exit code may never be collected.
    """
    deadline = time.monotonic() + seconds
    left = list(processes)
    while (left := [process for process in left if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)  # only a parent is notified when a process ends
    return left


def is_supervised(home: Path) -> bool:
    """Whether a supervisor of this home started this process, directly or indirectly."""
    return os.environ.get(MARK) == os.path.realpath(home)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
