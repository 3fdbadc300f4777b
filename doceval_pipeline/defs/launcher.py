"""Dagster's run launcher, with runs of this machine started by a warm process (see `warm`).

dagster.yaml names it in its block `run_launcher`. Without that block runs give the same results but cost
more CPU time.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import rmtree
from threading import Lock
from typing import Any

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData, serialize_value

from doceval_pipeline.embedded.sockets import peer, short_temporary_folder

# Hidden in the UI; says which run can be stopped through which socket. Dagster copies the tags of a run to
# its retries and re-executions, which other processes may have started.
SOCKET_TAG = ".dagster/warm_process"
WAITING_REQUESTS = 64
# The tag may name any socket: whoever launches a run may give it tags.
SECONDS_TO_STOP = 10.0


class WarmRunLauncher(DefaultRunLauncher):
    """Starts a run as a fork of a process that has everything imported, where it may.

    A run of a code location that has a server or a Python of its own is started as Dagster does by default.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._lock = Lock()
        self._warm: _WarmProcess | None = None

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the process of a run.

        Raises
        ------
        DagsterUserCodeUnreachableError
            The warm process ended before it answered; Dagster's run queue asks again.
        """
        run, code = context.dagster_run, context.job_code_origin
        if code is None or not _runs_here(run, code):
            super().launch_run(context)
            return
        warm = self._warm_process()
        # Before the run begins, because a run and its launcher would overwrite each other's changes.
        self._instance.add_run_tags(run.run_id, {SOCKET_TAG: f"{run.run_id} {warm.address}"})
        arguments = ExecuteRunArgs(code, run.run_id, self._instance.get_ref())
        answer = _ask(warm.address, {"start": run.run_id, "arguments": serialize_value(arguments)})
        if answer is None:
            raise DagsterUserCodeUnreachableError(
                f"the process that starts runs (doceval_pipeline.defs.warm) did not start run {run.run_id}: "
                "the daemon's log says why"
            )
        self._run_ids.add(run.run_id)

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, from any process of this machine; False where it does not run any more."""
        run = self._instance.get_run_by_id(run_id) if self.has_instance else None
        tag = "" if run is None else run.tags.get(SOCKET_TAG, "")
        owner, _, address = tag.partition(" ")
        if run is None or run.is_finished or owner != run_id:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call] # Dagster's
        self._instance.report_run_canceling(run)
        answer = _ask(address, {"stop": run_id}, SECONDS_TO_STOP)
        return answer is not None and answer.get("stopped") is True

    def dispose(self) -> None:
        """Let the warm process end with its last run."""
        with self._lock:
            if self._warm is not None:
                self._warm.leave()
            self._warm = None

    def _warm_process(self) -> "_WarmProcess":
        # Runs may be launched by several threads (dequeue_use_threads).
        with self._lock:
            if self._warm is not None and not self._warm.lives():
                self._warm.clear()
                self._warm = None
            if self._warm is None:
                try:
                    self._warm = _WarmProcess()
                except OSError as error:
                    raise DagsterUserCodeUnreachableError(
                        f"the process that starts runs could not be started ({error}): make room for it"
                    ) from None
            return self._warm


class _WarmProcess:
    """A warm process as its parent sees it; starts it when made."""

    def __init__(self) -> None:
        # Readable by this user alone, and near the root: a socket's path is short.
        self._folder = tempfile.mkdtemp(prefix="doceval-runs-", dir=short_temporary_folder())
        self.address = str(Path(self._folder) / "socket")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(self.address)
            server.listen(WAITING_REQUESTS)
            # -P: no module is looked for where it is started.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "doceval_pipeline.defs.warm",
                    str(server.fileno()),
                    self._folder,
                ],
                stdin=subprocess.PIPE,
                pass_fds=[server.fileno()],
            )

    def lives(self) -> bool:
        return self._process.poll() is None

    def leave(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def clear(self) -> None:
        """Remove what a process that was killed could not remove itself."""
        self.leave()
        rmtree(self._folder, ignore_errors=True)


def _runs_here(run: DagsterRun, code: JobPythonOrigin) -> bool:
    """Whether a run's code is what this Python imports, and no server of its own was given for it."""
    if run.remote_job_origin is None:
        return False
    location = run.remote_job_origin.repository_origin.code_location_origin
    is_ours = code.repository_origin.executable_path == sys.executable
    return is_ours and isinstance(location, ManagedGrpcPythonEnvCodeLocationOrigin)


def _ask(address: str, request: dict[str, Any], seconds: float | None = None) -> dict[str, Any] | None:
    """The answer of a warm process; None where it ended before it answered, or another user listens there.

    Without a limit in seconds it waits as long as the process lives: a start that was asked for and not
    waited for would be asked for again.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(address)
            if peer(connection) != os.geteuid():
                return None
            with connection.makefile("rw") as channel:
                channel.write(json.dumps(request) + "\n")
                channel.flush()
                return dict(json.loads(channel.readline()))
    except (OSError, ValueError):
        return None
