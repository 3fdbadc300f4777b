"""Starts, watches and stops Dagster's processes and the embedded server, but only those it started.

Each process has its own session, so that Ctrl-C in the terminal does not reach it. All of them, and their
children, carry a mark in their environment (see `strays`), by which the next command finds them even after
this process was killed. A small process (see `guard`) waits for the end of this one and then clears up.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import psutil

from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.cli.supervision.home_lock import HomeLock, holder_of
from doceval_pipeline.cli.supervision.loopback import answers
from doceval_pipeline.cli.supervision.strays import (
    SECONDS_TO_STOP,
    end,
    mark_of,
    names_of,
    roots,
    strays,
    unmarked,
)
from doceval_pipeline.dagster_home.configuration import GRPC_LIMITS, require_limits
from doceval_pipeline.embedded.server import EmbeddedServer, make_folder
from doceval_pipeline.embedded.sockets import short_temporary_folder
from doceval_pipeline.errors import ConfigurationError, DocEvalError
from doceval_pipeline.settings import JSON_LOGS, Settings

SECONDS_TO_START = 120
# A process that ends sooner than this is not restarted: it would only end again.
SECONDS_WORTH_A_RESTART = 20
SECONDS_TO_ANSWER = 2
LOG_LIMIT = 20_000_000
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StartFailed(DocEvalError):
    """A Dagster process did not start, or ended unexpectedly."""


class Supervisor:
    """Owns Dagster's processes of one installation; a context manager that stops them all.

    Signals that end this process (Ctrl-C, SIGTERM, a closed terminal) raise KeyboardInterrupt once, so that
    stopping its processes is not interrupted. Under `nohup` a closed terminal does not end it.

    Parameters
    ----------
    command
        The command that runs it, such as `doceval up`.
    port
        The webserver's port; None without a webserver.
    """

    def __init__(self, settings: Settings, command: str, port: int | None = None) -> None:
        self._settings = settings
        self._port = port
        self._lock = HomeLock(settings.home, command)
        self._children: dict[str, psutil.Popen] = {}
        self._commands: dict[str, list[str]] = {}
        self._exits = ExitStack()

    def __enter__(self) -> "Supervisor":
        """Lock the home, end processes of a killed supervisor, and prepare the databases.

        Raises
        ------
        ConfigurationError
            Another supervisor uses this home, the port is taken, or a setting cannot be used.
        DatabaseError, EmbeddedServerError
            As `open_databases`.
        """
        from doceval_pipeline.defs.engines import require_launcher
        from doceval_pipeline.defs.instance import prepare_dagster_home
        from doceval_pipeline.defs.schedules import schedules

        # Report unusable schedules, owners and hosts here, not in a log.
        schedules(self._settings)
        _ = self._settings.owners, self._settings.ui_hosts
        require_limits(os.environ)
        with ExitStack() as exits, one_line(self._settings.home):
            exits.enter_context(_ended_by_signals())
            make_folder(self._settings.home)
            exits.enter_context(self._lock).write_holder()
            if self._port is not None:
                require_free(self._port)
            require_launcher(self._settings)
            end(roots(strays(self._settings.home)))
            owns_server = not EmbeddedServer(self._settings.home).is_running()
            # Callbacks run in reverse order: the guard lives until nothing is left to clear up.
            exits.enter_context(self._guard(owns_server=owns_server))
            if owns_server:
                exits.callback(EmbeddedServer(self._settings.home).stop)
            exits.callback(self._stop_children)
            open_databases(self._settings)
            self._workspace = prepare_dagster_home(self._settings)
            self._identity = _identity(self._settings.home)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._exits.close()

    def start_daemon(self) -> None:
        """Start Dagster's daemon, which runs sensors, schedules, queued runs and backfills."""
        self.start("daemon", daemon_command(self._settings, self._workspace))

    def start_webserver(self) -> str:
        """Start Dagster's webserver on loopback, wait until it answers, and return its address.

        Raises
        ------
        StartFailed
            It does not answer.
        """
        url = f"http://127.0.0.1:{self._port}"
        self.start("webserver", webserver_command(self._settings, self._workspace, "127.0.0.1", self._port))
        self._await("webserver", lambda: answers(f"{url}/server_info", SECONDS_TO_ANSWER))
        self._lock.write_holder(url)
        return url

    def watch(self) -> None:
        """Keep all processes running until interrupted; restart those that end.

        Raises
        ------
        StartFailed
            A process ends repeatedly, or the home no longer exists.
        """
        pause = Event()
        with one_line(self._settings.home):
            while True:
                # If the home was replaced or removed, a new server with new databases would start.
                if _identity(self._settings.home) != self._identity:
                    raise StartFailed(
                        f"{self._settings.home} was moved or removed while doceval ran: move it back or set "
                        "DOCEVAL_HOME, and start again"
                    )
                for name, child in list(self._children.items()):
                    if child.poll() is not None:
                        self._restart(name, child)
                # Also restarts the embedded server if it was killed.
                open_databases(self._settings)
                for name in (*self._children, "postgres"):
                    keep_short(self.log(name))
                pause.wait(2)

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self._settings.home / "logs" / f"{name}.log"

    def start(self, name: str, command: list[str]) -> None:
        """Start a process in the installation's environment; this supervisor stops it."""
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        keep_short(log)
        try:
            with log.open("ab") as output:
                self._children[name] = psutil.Popen(
                    command,
                    env={**environment_of(self._settings), **mark_of(self._settings.home)},
                    cwd=self._settings.home,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise StartFailed(
                f"Dagster's {name} cannot be started ({error.filename or command[0]}: {error.strerror}): "
                "check that this file exists and is executable, or reinstall the project"
            ) from None
        self._commands[name] = command

    @contextmanager
    def _guard(self, *, owns_server: bool) -> Iterator[None]:
        """Run the process that clears up if this one is killed."""
        clear_up = [sys.executable, "-P", "-m", "doceval_pipeline.cli.supervision.clearing_up"]
        with subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("guard.py")), *clear_up]
            + (["server"] if owns_server else []),
            # Without the mark: it must outlive the others until the embedded server has stopped.
            env={**unmarked(), "DOCEVAL_HOME": str(self._settings.home)},
            # Its working folder must not block unmounting a file system.
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as guard:
            try:
                yield
            finally:
                guard.kill()

    def _restart(self, name: str, child: psutil.Popen) -> None:
        if time.time() - child.create_time() < SECONDS_WORTH_A_RESTART:
            raise StartFailed(f"Dagster's {name} ended unexpectedly: see {self.log(name)}")
        self.start(name, self._commands[name])

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        pause = Event()
        for _ in range(SECONDS_TO_START * 5):
            if ready():
                return
            if self._children[name].poll() is not None:
                break
            pause.wait(0.2)
        raise StartFailed(f"Dagster's {name} did not start: see {self.log(name)}")

    def _stop_children(self) -> None:
        # Another Ctrl-C must not leave processes behind.
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        end(self._children.values())
        self._children.clear()
        # For example runs whose daemon was killed.
        end(roots(strays(self._settings.home)))


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of Dagster's processes."""
    from doceval_pipeline.defs.instance import dagster_environment

    return {
        **GRPC_LIMITS,
        **os.environ,
        # Dagster's code server creates a socket there, and hangs if its path is too long.
        "TMPDIR": short_temporary_folder() or "",
        **dagster_environment(settings),
    }


def daemon_command(settings: Settings, workspace: Path) -> list[str]:
    """The command of Dagster's daemon."""
    return [*_module("daemon"), "run", "-w", str(workspace), *_log_options(settings)]


def webserver_command(settings: Settings, workspace: Path, host: str, port: int | None) -> list[str]:
    """The command of the webserver."""
    arguments = ["-h", host, "-p", str(port), "-w", str(workspace), *_log_options(settings)]
    return [*_module("webserver"), *arguments]


def _module(name: str) -> list[str]:
    # -P: do not import modules from the working folder.
    return [sys.executable, "-P", "-m", f"doceval_pipeline.defs.{name}"]


def _log_options(settings: Settings) -> list[str]:
    # Code servers announce their start before they load the code that makes their logs JSON.
    quiet = ["--code-server-log-level", "warning"]
    return ["--log-format", "json", *quiet] if settings.log_format == JSON_LOGS else []


def stop_all(settings: Settings) -> Counter[str]:
    """Stop an installation: its supervisor, remaining processes and the embedded server.

    Only processes of this user. Returns the number of stopped processes by kind.
    """
    home = settings.home
    stopped: Counter[str] = Counter()
    holder = holder_of(home)
    supervisor = None if holder is None else holder.process(home)
    processes = strays(home)
    server = EmbeddedServer(home)
    server_ran = server.is_running()
    if holder is not None and supervisor is not None:
        with suppress(psutil.NoSuchProcess):
            stopped[holder.command] += 1
            processes = [*supervisor.children(recursive=True), *processes]
            stopped += names_of({process.pid: process for process in processes}.values())
            # A supervisor first terminates its own processes, then kills those that do not end.
            end([supervisor], 3 * SECONDS_TO_STOP)
    else:
        stopped += names_of(processes)
    end(roots(strays(home)))
    stopped["embedded server"] += server.stop() or (server_ran and not server.is_running())
    return +stopped


def keep_short(log: Path) -> None:
    """Copy a log that is too long to `.log.1` and truncate it; its writers continue at the beginning.

    Lines written between copying and truncating are lost, as with logrotate's copytruncate; in return, no
    process needs a signal.
    """
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        # A full disk has no room for a copy: truncating the log makes room.
        with suppress(OSError):
            shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def script(name: str) -> str:
    """The path of a command installed with this package."""
    beside_python = Path(sys.executable).with_name(name)
    return str(beside_python if beside_python.exists() else Path(sysconfig.get_path("scripts")) / name)


def require_free(port: int) -> None:
    """Check that a port of loopback is free.

    Raises
    ------
    ConfigurationError
        It is taken; suggests a free port.
    """
    if _is_taken(port):
        free = next(
            other
            for other in (*range(max(port + 1, 3000), 65536), *range(3000, port))
            if not _is_taken(other)
        )
        raise ConfigurationError(f"port {port} is taken by another program: doceval up --port {free}")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise ConfigurationError(
                f"this user may not use port {port}: choose a port above 1023 with doceval up --port"
            ) from None
        except OSError:
            return True
    return False


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def one_line(home: Path) -> Iterator[None]:
    """Turn errors of the file system below a home into one line."""
    try:
        yield
    except OSError as error:
        where = error.filename or home
        raise ConfigurationError(
            f"{where} cannot be used ({error.strerror}): free disk space, give this user permission, or set "
            "DOCEVAL_HOME to another folder"
        ) from None


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let the first signal that ends a process raise KeyboardInterrupt, and ignore the others."""

    def interrupt(*_: Any) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _ENDING}
    # Ctrl-C also works if a shell script started this process in the background, where it is ignored. Under
    # nohup a closed terminal stays ignored.
    for number in _ENDING:
        if number != signal.SIGHUP or before[number] is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
