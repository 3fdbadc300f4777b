"""Starts, stops and kills the processor under trial, with everything that it started."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from doceval_pipeline.embedded.parameters import is_libpq_variable
from doceval_pipeline.embedded.processes import still_there
from doceval_pipeline.errors import ConfigurationError

SECONDS_TO_STOP = 10
# They would tell the processor about another database than the scratch one, or lead it past the model.
_OURS = ("DOC_EVAL_URL", "KNOWLEDGE_DOCUMENTS_URL", "DAGSTER_POSTGRES_URL", "DAGSTER_HOME", "DOCEVAL_HOME")
# Waits for the end of this process, which closes the pipe also where it was killed, and ends the processor's
# process group. Not PR_SET_PDEATHSIG: it is of Linux alone, and reaches no process that a processor started.
_WATCH = 'read -r line; kill -s KILL -- "-$1"'
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Processor:
    """One running instance of a command, which ends with this process; its output goes to a file.

    Parameters
    ----------
    command
        The program and its arguments.
    environment
        What it is told, beside the environment of this process.
    output
        Where its standard output and error are appended.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
        self._output = output
        inherited = {name: value for name, value in os.environ.items() if not _misleads(name)}
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
                    f"{command[0]} cannot be started ({error.strerror}): give the command of your processor "
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
        """End it and all it started at once, as a power cut would."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # Before the number of the process is free for another one.
        with self._watch:
            self._watch.kill()
        self._process.wait()

    def stop(self) -> float | None:
        """Ask it to end; the seconds it took, or None where it had to be killed."""
        started = time.monotonic()
        family = self._family()
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_TO_STOP)
        in_time = self._process.poll() is not None
        self.kill()
        still_there(family, SECONDS_TO_STOP)
        return time.monotonic() - started if in_time else None

    def last_words(self) -> str:
        """The last line of its output, or an empty text."""
        lines = self._output.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _family(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self._process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []


def _misleads(variable: str) -> bool:
    """Whether a variable means another server than the scratch database and the model, which are here."""
    return variable in _OURS or variable.lower() in _PROXIES or is_libpq_variable(variable)
