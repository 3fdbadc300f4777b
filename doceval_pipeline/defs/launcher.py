"""A run launcher for Dagster that starts runs by forking a warm process (see `warm`).

The block `run_launcher` of dagster.yaml selects it. Without that block runs have the same results but cost
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

# Hidden in the UI. Its value is a run id and the socket through which that run can be stopped. Dagster copies
# the tags of a run to its retries and re-executions, which other processes may have started.
SOCKET_TAG = ".dagster/warm_process"
WAITING_REQUESTS = 64
# The tag may name any socket, because users can set the tags of a run.
STOP_TIMEOUT_SECONDS = 10.0


class WarmRunLauncher(DefaultRunLauncher):
    """Starts runs as forks of a process that has already imported Dagster.

    Runs of code locations with their own server or Python are started as Dagster does by default.
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
            The warm process ended before it answered; Dagster's run queue tries again.
        """
        run, code = context.dagster_run, context.job_code_origin
        if code is None or not _runs_here(run, code):
            super().launch_run(context)
            return
        warm = self._warm_process()
        # Tagged before the run starts, because a run and its launcher would overwrite each other's changes.
        self._instance.add_run_tags(run.run_id, {SOCKET_TAG: f"{run.run_id} {warm.address}"})
        arguments = ExecuteRunArgs(code, run.run_id, self._instance.get_ref())
        answer = _request(warm.address, {"start": run.run_id, "arguments": serialize_value(arguments)})
        if answer is None:
            raise DagsterUserCodeUnreachableError(
                f"the warm process (doceval_pipeline.defs.warm) did not start run {run.run_id}: see the "
                "log of the daemon"
            )
        self._run_ids.add(run.run_id)

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, from any process of this machine; False if it no longer runs."""
        run = self._instance.get_run_by_id(run_id) if self.has_instance else None
        tag = "" if run is None else run.tags.get(SOCKET_TAG, "")
        owner, _, address = tag.partition(" ")
        if run is None or run.is_finished or owner != run_id:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call] # Dagster's
        self._instance.report_run_canceling(run)
        answer = _request(address, {"stop": run_id}, STOP_TIMEOUT_SECONDS)
        return answer is not None and answer.get("stopped") is True

    def dispose(self) -> None:
        """Let the warm process end after its last run."""
        with self._lock:
            if self._warm is not None:
                self._warm.close_input()
            self._warm = None

    def _warm_process(self) -> "_WarmProcess":
        # Runs may be launched by several threads (dequeue_use_threads).
        with self._lock:
            if self._warm is not None and not self._warm.is_alive():
                self._warm.clear()
                self._warm = None
            if self._warm is None:
                try:
                    self._warm = _WarmProcess()
                except OSError as error:
                    raise DagsterUserCodeUnreachableError(
                        f"the warm process could not be started ({error}): free memory, processes or disk "
                        "space"
                    ) from None
            return self._warm


class _WarmProcess:
    """The parent's handle of a warm process; the constructor starts the process."""

    def __init__(self) -> None:
        # Readable only by this user. The folder is short, because the paths of sockets are limited.
        self._folder = tempfile.mkdtemp(prefix="doceval-runs-", dir=short_temporary_folder())
        self.address = str(Path(self._folder) / "socket")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(self.address)
            server.listen(WAITING_REQUESTS)
            # -P: modules are not imported from the current folder.
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

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def clear(self) -> None:
        """Remove the folder of a killed process, which could not remove it itself."""
        self.close_input()
        rmtree(self._folder, ignore_errors=True)


def _runs_here(run: DagsterRun, code: JobPythonOrigin) -> bool:
    """Whether this Python can import the code of a run, and the code has no server of its own."""
    if run.remote_job_origin is None:
        return False
    location = run.remote_job_origin.repository_origin.code_location_origin
    is_same_python = code.repository_origin.executable_path == sys.executable
    return is_same_python and isinstance(location, ManagedGrpcPythonEnvCodeLocationOrigin)


def _request(address: str, request: dict[str, Any], timeout: float | None = None) -> dict[str, Any] | None:
    """The answer of a warm process; None if it ended before it answered, or if it belongs to another user.

    Without a timeout it waits as long as the process lives: after a timeout, a run would be started again.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(address)
            if peer(connection) != os.geteuid():
                return None
            with connection.makefile("rw") as channel:
                channel.write(json.dumps(request) + "\n")
                channel.flush()
                return dict(json.loads(channel.readline()))
    except (OSError, ValueError):
        return None
