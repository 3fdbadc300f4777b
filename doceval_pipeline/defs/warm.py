"""The warm process: starts runs as forks of itself, with Dagster imported already. Run as a module.

Importing Dagster and the libraries takes more CPU time than a run over a small batch. Only libraries are
imported before a fork: each run imports the project itself, so that it runs the code as it is on disk.

It answers one request for each connection on the socket that it inherits, a line of JSON each way:

- `{"start": RUN_ID, "arguments": ExecuteRunArgs}` starts a run, and answers `{"pid": …}`
- `{"stop": RUN_ID}` interrupts it, and answers `{"stopped": …}`, false where it does not run here

Forking is safe because this process has one thread and never opens an instance, a database or a channel;
runs do, after the fork. It ends with the last run once its parent has closed its standard input.
"""

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterable
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from shutil import rmtree
from typing import Any

# What a run imports of libraries, without those that start threads (numpy's).
LIBRARIES = (
    "dagster",
    "dagster._cli.api",
    "dagster._core.execution.plan.execute_plan",
    "dagster_postgres",
    "filelock",
    "pathspec",
    "psutil",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "yaml",
)
# Timeout for a client that connects and sends nothing; other requests wait meanwhile.
SECONDS_TO_ASK = 10


class WarmProcess:
    """Starts, stops and reaps runs, and reports those as failed that die without saying so."""

    def __init__(self, server: socket.socket, parent: int) -> None:
        self._server = server
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
                # The client may have gone meanwhile, and a fork may fail for want of memory: neither ends
                # the runs that work. The client of a fork that failed gets no answer, and asks again.
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
        connection.settimeout(SECONDS_TO_ASK)
        with connection.makefile("rw") as channel:
            try:
                request = json.loads(channel.readline())
            except ValueError:  # nothing, or no JSON
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
        # Asked for twice, it is started once.
        if run not in self._running:
            self._running[run] = (self._fork(execute, arguments), arguments)
        return self._running[run][0].pid

    def _stop(self, run: str) -> bool:
        process, _ = self._running.get(run, (None, ""))
        if process is None or process.pid is None or process.exitcode is not None:
            return False
        # Not reaped yet, so the number is still this run's.
        os.kill(process.pid, signal.SIGINT)
        return True

    def _reap(self) -> None:
        self._reporting = [process for process in self._reporting if process.exitcode is None]
        for run, (process, arguments) in list(self._running.items()):
            if process.exitcode is None:
                continue
            del self._running[run]
            # A run that failed ends with 0 all the same, because it has said so itself.
            if process.exitcode:
                self._reporting.append(self._fork(report_death, arguments, process.exitcode))

    def _fork(self, work: Any, *arguments: Any) -> BaseProcess:
        process = self._context.Process(target=self._in_child, args=(work, *arguments))
        process.start()
        return process

    def _in_child(self, work: Any, *arguments: Any) -> None:
        # A connection to this process must end with it, and not wait for its runs.
        self._server.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work(*arguments)


def execute(arguments: str) -> None:
    """Execute a run, as `dagster api execute_run` does."""
    from dagster._cli.api import execute_run_command

    # Where `python -m dagster` looks for a code location's modules first.
    sys.path.insert(0, os.getcwd())
    execute_run_command.main([arguments], standalone_mode=False)


def report_death(arguments: str, exit_code: int) -> None:
    """Report a run as failed whose process ended before the run did, as Dagster's code server does."""
    from dagster._cli.utils import get_instance_for_cli
    from dagster._grpc.types import ExecuteRunArgs
    from dagster._serdes import deserialize_value
    from dagster._utils import get_run_crash_explanation

    told = deserialize_value(arguments, ExecuteRunArgs)
    with get_instance_for_cli(told.instance_ref) as instance:
        run = instance.get_run_by_id(told.run_id)
        if run is not None and not run.is_finished:
            reason = get_run_crash_explanation(f"Run execution process for {run.run_id}", exit_code)
            instance.report_run_failed(run, reason)


def main() -> None:
    """Import what runs need, then serve a socket; the arguments are its number and its folder."""
    # Ctrl-C in a terminal reaches the runs too, which end by themselves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for library in LIBRARIES:
        import_module(library)
    # What is here stays: a run that collected it would copy the pages of memory that both share.
    gc.collect()
    gc.freeze()
    try:
        WarmProcess(socket.socket(fileno=int(sys.argv[1])), sys.stdin.fileno()).serve()
    finally:
        rmtree(sys.argv[2], ignore_errors=True)


if __name__ == "__main__":
    main()
