"""The warm process: starts runs as forks of itself, with Dagster already imported. Run as a module.

Importing Dagster, the libraries and the project takes more CPU time than a run over a small batch. If a file
of the project changes after that, runs import the project again, so that they execute the code on disk.

It answers one request per connection on the socket that it inherits, with one line of JSON each way:

- `{"start": RUN_ID, "arguments": ExecuteRunArgs}` starts a run and answers `{"pid": …}`
- `{"stop": RUN_ID}` interrupts a run and answers `{"stopped": …}`, false if it does not run here

Forking is safe because this process has one thread and never opens an instance, a database or a gRPC channel;
runs open them after the fork. It ends after the last run once its parent has closed its standard input.
"""

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module, invalidate_caches
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import rmtree
from typing import Any

# The libraries that a run imports, except those that start threads (numpy).
LIBRARIES = (
    "dagster",
    "dagster._cli.api",
    "dagster._core.definitions.repository_definition.repository_data_builder",
    "dagster._core.execution.plan.active",
    "dagster._core.execution.plan.execute_plan",
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.storage.noop_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.system_config.composite_descent",
    "dagster_postgres",
    "filelock",
    "pathspec",
    "psutil",
    "psycopg2.extras",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "upath.implementations.local",
    "yaml",
)
PROJECT = "doceval_pipeline"
# They import everything of the project that a run needs. Definitions of users are imported by each run.
ENTRIES = (f"{PROJECT}.definitions", f"{PROJECT}.defs.storage")
# Timeout for a client that connects and sends nothing; other requests wait meanwhile.
REQUEST_TIMEOUT_SECONDS = 10

CodeFiles = frozenset[tuple[str, int, int, int]]


class WarmProcess:
    """Starts, stops and reaps runs; reports runs as failed whose processes die without an event."""

    def __init__(self, server: socket.socket, parent: int, imported: CodeFiles) -> None:
        self._server = server
        self._imported = imported
        self._parent: int | None = parent
        self._context = multiprocessing.get_context("fork")
        self._running: dict[str, tuple[BaseProcess, str]] = {}
        self._reporting: list[BaseProcess] = []

    def serve(self) -> None:
        """Answer requests until the parent has gone and all runs have ended."""
        while self._parent is not None or self._running or self._reporting:
            ready = wait([self._server, *self._others()])
            self._reap()
            if self._parent in ready:
                self._parent = None
            if self._server in ready:
                # If the client has gone, or a fork fails for lack of memory, other runs must continue. The
                # client of a failed fork gets no answer and tries again.
                try:
                    with self._server.accept()[0] as connection:
                        self._answer_one(connection)
                except OSError as error:
                    print(f"a request to start or stop a run failed: {error}", file=sys.stderr, flush=True)

    def _others(self) -> Iterable[int]:
        if self._parent is not None:
            yield self._parent
        for process in (*(process for process, _ in self._running.values()), *self._reporting):
            yield process.sentinel

    def _answer_one(self, connection: socket.socket) -> None:
        connection.settimeout(REQUEST_TIMEOUT_SECONDS)
        with connection.makefile("rw") as channel:
            try:
                request = json.loads(channel.readline())
            except ValueError:  # empty, or not JSON
                return
            channel.write(json.dumps(self._answer(request)) + "\n")

    def _answer(self, request: Any) -> dict[str, Any]:
        match request:
            case {"start": str(run), "arguments": str(arguments)}:
                return {"pid": self._start(run, arguments)}
            case {"stop": str(run)}:
                return {"stopped": self._stop(run)}
        return {}

    def _start(self, run: str, arguments: str) -> int | None:
        # A run that is requested twice is started once.
        if run not in self._running:
            self._running[run] = (self._fork(execute, arguments, self._imported), arguments)
        return self._running[run][0].pid

    def _stop(self, run: str) -> bool:
        process, _ = self._running.get(run, (None, ""))
        if process is None or process.pid is None or process.exitcode is not None:
            return False
        # Not reaped yet, so the pid still belongs to this run.
        os.kill(process.pid, signal.SIGINT)
        return True

    def _reap(self) -> None:
        self._reporting = [process for process in self._reporting if process.exitcode is None]
        for run, (process, arguments) in list(self._running.items()):
            if process.exitcode is None:
                continue
            del self._running[run]
            # A failed run also exits with 0, because it has recorded its failure itself.
            if process.exitcode:
                self._reporting.append(self._fork(report_death, arguments, process.exitcode))

    def _fork(self, work: Any, *arguments: Any) -> BaseProcess:
        process = self._context.Process(target=self._in_child, args=(work, *arguments))
        process.start()
        return process

    def _in_child(self, work: Any, *arguments: Any) -> None:
        # A connection to this process must close when it ends, not when its runs end.
        self._server.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work(*arguments)


def code_files() -> CodeFiles:
    """The project's Python files: the path of each, its inode, size and time of modification."""
    found = set()
    for folder, _, names in os.walk(Path(__file__).parents[1]):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):
                    about = os.stat(path)
                    found.add((path, about.st_ino, about.st_size, about.st_mtime_ns))
    return frozenset(found)


def import_project() -> CodeFiles:
    """Import the project; returns its files as they were before."""
    found = code_files()
    # Code that cannot be imported fails each run, which reports the error.
    with suppress(Exception):
        for module in ENTRIES:
            import_module(module)
    return found


def forget_project() -> None:
    """Forget the imported modules of the project, so that its code on disk is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == PROJECT]:
        del sys.modules[name]
    invalidate_caches()


def execute(arguments: str, imported: CodeFiles) -> None:
    """Execute a run, as `dagster api execute_run` does, with the project's current code.

    Parameters
    ----------
    imported
        The files from which this process has imported the project.
    """
    from dagster._cli.api import execute_run_command

    if code_files() != imported:
        forget_project()
    # `python -m dagster` also imports a code location's modules from the current folder first.
    sys.path.insert(0, os.getcwd())
    execute_run_command.main([arguments], standalone_mode=False)


def report_death(arguments: str, exit_code: int) -> None:
    """Report a run as failed if its process ended before the run did, as Dagster's code server does."""
    from dagster._cli.utils import get_instance_for_cli
    from dagster._grpc.types import ExecuteRunArgs
    from dagster._serdes import deserialize_value
    from dagster._utils import get_run_crash_explanation

    run_args = deserialize_value(arguments, ExecuteRunArgs)
    with get_instance_for_cli(run_args.instance_ref) as instance:
        run = instance.get_run_by_id(run_args.run_id)
        if run is not None and not run.is_finished:
            reason = get_run_crash_explanation(f"Run execution process for {run.run_id}", exit_code)
            instance.report_run_failed(run, reason)


def main() -> None:
    """Import everything, then serve a socket; the arguments are its file descriptor and its folder."""
    # Ctrl-C in a terminal also reaches the runs, which handle it themselves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for library in LIBRARIES:
        import_module(library)
    imported = import_project()
    # Freeze all objects: a run that collected them would copy the memory pages that it shares.
    gc.collect()
    gc.freeze()
    try:
        WarmProcess(socket.socket(fileno=int(sys.argv[1])), sys.stdin.fileno(), imported).serve()
    finally:
        rmtree(sys.argv[2], ignore_errors=True)


if __name__ == "__main__":
    main()
