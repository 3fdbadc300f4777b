"""Waiting for the end of processes, also of such that are not children of this one."""

import time
from collections.abc import Iterable

import psutil


def still_there(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end, at most for some seconds; returns those that did not.

    A zombie has ended: in a container nobody may ever ask for its exit code.
    """
    deadline = time.monotonic() + seconds
    left = list(processes)
    while (left := [process for process in left if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)  # only a parent is told of an end
    return left


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
