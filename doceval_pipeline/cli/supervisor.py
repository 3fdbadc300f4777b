"""Starts, watches and stops Dagster's processes and the embedded server, and only those it started.

Each process leads a session of its own, so that it can be stopped with everything it started. What
was started is written down in `$DOCEVAL_HOME/up.json`, by process number and start time together,
so that the next command finds it even after this one was killed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import psutil

from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.dagster_home.configuration import GRPC_LIMITS, require_limits
from doceval_pipeline.embedded.processes import still_there
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.embedded.sockets import short_temporary_folder
from doceval_pipeline.errors import ConfigurationError, DocEvalError
from doceval_pipeline.settings import Settings

SECONDS_TO_STOP = 15
SECONDS_TO_START = 120
# A process that ends sooner than this after its start would only end again.
SECONDS_WORTH_A_RESTART = 20
LOG_LIMIT = 20_000_000
# Nothing for this machine goes through a proxy, whatever http_proxy and no_proxy say.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class StartFailed(DocEvalError):
    """A process of Dagster's did not start, or ended."""


class Supervisor:
    """Owns Dagster's processes of one installation; a context manager that stops them all."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state = settings.home / "up.json"
        self._children: dict[str, psutil.Popen] = {}
        self._commands: dict[str, list[str]] = {}
        self._server_was_running = False
        self._port: int | None = None

    def __enter__(self) -> "Supervisor":
        from doceval_pipeline.defs.instance import dagster_environment, prepare_dagster_home
        from doceval_pipeline.defs.schedules import schedules

        # Schedules and owners that cannot be used are told here, and not in a log.
        schedules(self._settings)
        _ = self._settings.owners
        require_limits(os.environ)
        running = self._recorded("supervisor")
        if running:
            raise ConfigurationError(
                f"doceval already runs on {self._settings.home} (process {running[0].pid}): "
                "use it, or doceval down first"
            )
        self._stop(list(self._recorded_children()))
        self._server_was_running = EmbeddedServer(self._settings.home).is_running()
        open_databases(self._settings)
        self._workspace = prepare_dagster_home(self._settings)
        # Dagster's code server makes a socket there, and hangs where its path is too long.
        temporary = {"TMPDIR": short_temporary_folder() or ""}
        self._environment = {
            **GRPC_LIMITS,
            **os.environ,
            **temporary,
            **dagster_environment(self._settings),
        }
        self._write_state()
        return self

    def __exit__(self, *_: Any) -> None:
        # A second Ctrl-C must not leave processes behind.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._stop(list(self._children.values()))
        self._children.clear()
        self._state.unlink(missing_ok=True)
        signal.signal(signal.SIGINT, previous)

    def start_daemon(self) -> None:
        """Start Dagster's daemon, which runs sensors, schedules, queued runs and backfills."""
        self.start("daemon", [script("dagster-daemon"), "run", "-w", str(self._workspace)])

    def start_webserver(self, port: int) -> None:
        """Start Dagster's webserver on loopback and wait until it answers.

        Raises
        ------
        ConfigurationError
            The port is taken.
        StartFailed
            It does not answer.
        """
        if _is_taken(port):
            raise ConfigurationError(f"port {port} is taken by another program: doceval up --port {port + 1}")
        arguments = ["-h", "127.0.0.1", "-p", str(port), "-w", str(self._workspace)]
        # -P: no module is looked for where it is started.
        module = [sys.executable, "-P", "-m", "doceval_pipeline.defs.webserver"]
        self._port = port
        self.start("webserver", [*module, *arguments])
        self._await("webserver", lambda: _answers(f"http://127.0.0.1:{port}/server_info"))

    def watch(self) -> None:
        """Keep everything running until interrupted; restarts what ends.

        Raises
        ------
        StartFailed
            A process ends again and again.
        """
        pause = Event()
        while True:
            for name, child in list(self._children.items()):
                if child.poll() is not None:
                    self._restart(name, child)
            # Also starts the embedded server again, should somebody have killed it.
            open_databases(self._settings)
            for name in (*self._children, "postgres"):
                keep_short(self.log(name))
            pause.wait(2)

    def stop_server(self) -> None:
        """Stop the embedded server, unless it ran before this supervisor came."""
        if not self._server_was_running:
            EmbeddedServer(self._settings.home).stop()

    def stop_other(self) -> bool:
        """Stop what another supervisor started, and the embedded server; False if nothing ran."""
        supervisors = self._recorded("supervisor")
        children = list(self._recorded_children())
        # A supervisor first stops its own processes, and ends those that do not stop.
        self._stop(supervisors, 3 * SECONDS_TO_STOP)
        self._stop(children)
        self._state.unlink(missing_ok=True)
        stopped = EmbeddedServer(self._settings.home).stop()
        return bool(supervisors or children) or stopped

    def webserver_url(self) -> str | None:
        """Where the webserver that a supervisor of this installation started is; None where none runs."""
        if not self._recorded("webserver"):
            return None
        port = json.loads(self._state.read_text()).get("port")
        return None if port is None else f"http://127.0.0.1:{port}"

    def log(self, name: str) -> Path:
        """Where a process writes what it has to say."""
        return self._settings.home / "logs" / f"{name}.log"

    def start(self, name: str, command: list[str]) -> None:
        """Start a process that belongs to this supervisor, in the installation's environment."""
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        keep_short(log)
        try:
            with log.open("ab") as output:
                self._children[name] = psutil.Popen(
                    command,
                    env=self._environment,
                    cwd=self._settings.home,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise StartFailed(
                f"Dagster's {name} cannot be started ({error.filename or command[0]}: {error.strerror}): "
                "check that this file exists and may be run, or install the project again"
            ) from None
        self._commands[name] = command
        self._write_state()

    def _restart(self, name: str, child: psutil.Popen) -> None:
        if time.time() - child.create_time() < SECONDS_WORTH_A_RESTART:
            raise StartFailed(f"Dagster's {name} ended by itself: {self.log(name)} says why")
        self.start(name, self._commands[name])

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        pause = Event()
        for _ in range(SECONDS_TO_START * 5):
            if ready():
                return
            if self._children[name].poll() is not None:
                break
            pause.wait(0.2)
        raise StartFailed(f"Dagster's {name} did not start: {self.log(name)} says why")

    def _write_state(self) -> None:
        own = psutil.Process()
        processes = {"supervisor": own, **self._children}
        state: dict[str, Any] = {name: [p.pid, p.create_time()] for name, p in processes.items()}
        state["port"] = self._port
        partial = self._state.with_suffix(".partial")
        partial.write_text(json.dumps(state))
        partial.replace(self._state)

    def _recorded(self, *names: str) -> list[psutil.Process]:
        """Living processes that were written down; a reused process number has another start time."""
        try:
            state = json.loads(self._state.read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return []
        except OSError as error:
            raise ConfigurationError(
                f"{self._state} cannot be read ({error.strerror}): set DOCEVAL_HOME to a folder of yours"
            ) from None
        found = []
        for name in names or state.keys() - {"port"}:
            with suppress(psutil.NoSuchProcess, KeyError):
                process = psutil.Process(state[name][0])
                if process.create_time() == state[name][1] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _recorded_children(self) -> Iterator[psutil.Process]:
        supervisors = {process.pid for process in self._recorded("supervisor")}
        return (process for process in self._recorded() if process.pid not in supervisors)

    def _stop(self, processes: list[Any], seconds: float = SECONDS_TO_STOP) -> None:
        """Ask processes, and all they started, to end; end those that do not within `seconds`."""
        everything = []
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                everything += [*process.children(recursive=True), process]
                process.terminate()
        alive = still_there(everything, seconds)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        still_there(alive, SECONDS_TO_STOP)


def keep_short(log: Path) -> None:
    """Move what a log holds aside once it is too long; whoever appends to it goes on at its beginning.

    What is written in the instant between copying and cutting is lost, as with logrotate's
    copytruncate: no process needs to be told.
    """
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def script(name: str) -> str:
    """The path of a command that was installed with this package."""
    beside_python = Path(sys.executable).with_name(name)
    return str(beside_python if beside_python.exists() else Path(sysconfig.get_path("scripts")) / name)


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _answers(url: str) -> bool:
    try:
        with _DIRECTLY.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
