"""Starts, stops and kills the tested processor with all of its child processes."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from doceval_pipeline.embedded.parameters import is_libpq_variable
from doceval_pipeline.embedded.processes import wait_for_end
from doceval_pipeline.errors import ConfigurationError

SECONDS_TO_STOP = 10
# Not passed to the processor: they name other databases, or would bypass the fake model.
_OURS = ("DOC_EVAL_URL", "KNOWLEDGE_DOCUMENTS_URL", "DAGSTER_POSTGRES_URL", "DAGSTER_HOME", "DOCEVAL_HOME")
# Waits for this process to end, which closes the pipe even if it is killed, then kills the process group of
# the processor. Not PR_SET_PDEATHSIG: it exists only on Linux and does not reach children of the processor.
_WATCH = 'read -r line; kill -s KILL -- "-$1"'
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Processor:
    """A running instance of the processor command. Ends with this process; its output goes to a file.

    Parameters
    ----------
    command
        The program and its arguments.
    environment
        Variables in addition to those of this process.
    output
        File that its standard output and error are appended to.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
        self._output = output
        inherited = {name: value for name, value in os.environ.items() if not _is_removed(name)}
        with output.open("ab") as file:
            try:
                self._process = subprocess.Popen(
                    command,
                    env={**inherited, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            except OSError as error:
                raise ConfigurationError(
                    f"{command[0]} cannot be started ({error.strerror}): pass the command of your processor "
                    "after doceval conformance --"
                ) from None
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def exit_code(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Kill it and its process group immediately, like a power cut."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # Before the process id can be reused.
        with self._watch:
            self._watch.kill()
        self._process.wait()

    def stop(self) -> float | None:
        """Send SIGTERM and wait; returns the seconds it took, or None if it had to be killed."""
        started = time.monotonic()
        children = self._children()
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_TO_STOP)
        in_time = self._process.poll() is not None
        self.kill()
        wait_for_end(children, SECONDS_TO_STOP)
        return time.monotonic() - started if in_time else None

    def last_output(self) -> str:
        """Last line of its output, or an empty string."""
        lines = self._output.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _children(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self._process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []


def _is_removed(variable: str) -> bool:
    """Whether a variable would lead the processor past the scratch database or the fake model."""
    return variable in _OURS or variable.lower() in _PROXIES or is_libpq_variable(variable)
