"""Reports when a database server does not answer, instead of waiting silently.

libpq waits without a limit and cannot be interrupted. Meanwhile a thread probes each server over a separate
connection for the first byte of PostgreSQL's answer, which needs no login and takes no connection slot. A
slow statement is not reported, because its server answers the probe. The first seconds pass without a probe,
so that logs of servers that answer stay clean.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from doceval_pipeline.batches.databases import DAGSTER, DOC_EVAL, KNOWLEDGE, database_url
from doceval_pipeline.cli.output import console, errors, fail, warn
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.embedded.sockets import SOCKET, require_peer, require_private
from doceval_pipeline.errors import ConfigurationError, EmbeddedServerError
from doceval_pipeline.settings import Settings

# Seconds without an answer until it is reported, and until it ends a command that only reads.
SECONDS_TO_MENTION = 10.0
SECONDS_TO_END = 30.0
SECONDS_BETWEEN = 5.0
# After this, a Ctrl-C that Python could not handle ends the process.
SECONDS_TO_INTERRUPT = 0.3
# The protocol's request for GSSAPI encryption, which every server and pooler answers. A request for TLS that
# is then abandoned would appear in the server's log.
PROBE = (8).to_bytes(4) + (80877104).to_bytes(4)


@dataclass(frozen=True)
class DatabaseServer:
    """A database server: its name for people, and where it listens.

    Parameters
    ----------
    address
        The path of a socket, or host and port.
    embedded
        The embedded server that owns the socket: nothing is sent if another account listens there.
    """

    name: str
    address: str | tuple[str, int]
    embedded: EmbeddedServer | None = None

    def answers(self, seconds: float) -> bool:
        """Whether it answers within `seconds`; a refusal is an answer too."""
        deadline = time.monotonic() + seconds
        try:
            with closing(self._connect(seconds)) as probe:
                probe.settimeout(max(deadline - time.monotonic(), 0.01))
                probe.sendall(PROBE)
                probe.recv(1)
        except BlockingIOError:
            # Its queue of connections is full.
            time.sleep(max(deadline - time.monotonic(), 0))
            return False
        except TimeoutError:
            return False
        except (OSError, UnicodeError, EmbeddedServerError):
            # The command itself reports the same error. Python raises UnicodeError for some host names.
            return True
        return True

    def _connect(self, seconds: float) -> socket.socket:
        if not isinstance(self.address, str):
            return socket.create_connection(self.address, seconds)
        with ExitStack() as exits:
            probe = exits.enter_context(socket.socket(socket.AF_UNIX))
            probe.settimeout(seconds)
            if self.embedded is not None:
                folder, accounts = Path(self.address).parent, self.embedded.accounts()
                require_private(folder, accounts)
            probe.connect(os.fsencode(self.address))
            if self.embedded is not None:
                require_peer(probe, folder, accounts)
            exits.pop_all()
        return probe


@contextmanager
def watching(*, only_reads: bool) -> Iterator[None]:
    """Watch the database servers of the environment while a command runs.

    Ends the process at Ctrl-C if Python cannot because libpq waits; and, for a command that `only_reads`,
    when a server has not answered for 30 s.
    """
    servers = _servers(only_reads=only_reads)
    over = threading.Event()
    if servers:
        threading.Thread(
            target=_watch, args=(servers, over), kwargs={"only_reads": only_reads}, daemon=True
        ).start()
    try:
        with _interruptible(servers, over) if servers else nullcontext():
            yield
    finally:
        over.set()


def _servers(*, only_reads: bool) -> list[DatabaseServer]:
    """The servers that a command may wait for, each once; none if the environment cannot be used."""
    try:
        settings = Settings.from_environment()
    except ConfigurationError:
        return []
    # A command that only reads does not need Dagster's own database.
    databases = (DOC_EVAL, KNOWLEDGE) if only_reads else (DOC_EVAL, KNOWLEDGE, DAGSTER)
    servers = [_server(database[0], database_url(settings, database), settings) for database in databases]
    return list({server.address: server for server in reversed(servers) if server}.values())


def _server(variable: str, url: str, settings: Settings) -> DatabaseServer | None:
    """The server of a URL; None if the URL is invalid or leaves the choice of a server to libpq."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    host, port = parsed.host or parsed.query.get("host"), str(parsed.port or parsed.query.get("port", 5432))
    if not isinstance(host, str) or "," in host or not port.isdecimal() or "hostaddr" in parsed.query:
        return None
    embedded = EmbeddedServer(settings.home)
    if embedded.is_reached_by(host):
        return DatabaseServer("the embedded PostgreSQL", f"{host}/{SOCKET}", embedded)
    name = f"the database server of {variable}"
    return DatabaseServer(name, f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, int(port)))


def _watch(servers: list[DatabaseServer], over: threading.Event, *, only_reads: bool) -> None:
    # Half of the time passes before the first probe, and half after it.
    pause = patience = SECONDS_TO_MENTION / 2
    while not over.wait(pause):
        for server in servers:
            _wait_for(server, patience, over, only_reads=only_reads)
        pause, patience = SECONDS_BETWEEN, SECONDS_TO_MENTION


def _wait_for(server: DatabaseServer, patience: float, over: threading.Event, *, only_reads: bool) -> None:
    if server.answers(patience) or over.is_set():
        return
    warn(f"{server.name} does not answer; still waiting")
    while not server.answers(SECONDS_TO_END - SECONDS_TO_MENTION) and not over.is_set():
        if only_reads:
            _end(
                f"{server.name} did not answer for {SECONDS_TO_END:g} s: check whether it is stopped or "
                "its machine is overloaded, and try again",
                1,
            )


@contextmanager
def _interruptible(servers: list[DatabaseServer], over: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals, wakeup = socket.socketpair()
    with closing(signals), closing(wakeup):
        wakeup.settimeout(0)
        before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_await_interrupts, args=(signals, servers, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            signal.set_wakeup_fd(before)


def _await_interrupts(signals: socket.socket, servers: list[DatabaseServer], over: threading.Event) -> None:
    main = threading.main_thread().ident
    while not over.is_set():
        with suppress(OSError, ValueError):
            if not select.select([signals], [], [], 1)[0] or signal.SIGINT not in signals.recv(64):
                continue
            where = _place(main)
            # If Python handles it, the main thread moves on.
            if over.wait(SECONDS_TO_INTERRUPT) or _place(main) != where:
                continue
            if not all(server.answers(SECONDS_TO_INTERRUPT) for server in servers) and not over.is_set():
                _end("interrupted", 130)


def _place(thread: int | None) -> tuple[int, int]:
    frame = sys._current_frames().get(thread or 0)
    return (0, 0) if frame is None else (id(frame), frame.f_lasti)


def _end(line: str, code: int) -> None:
    """End the process at once, because a thread that waits in libpq cannot be interrupted."""
    # A progress bar may have hidden the cursor.
    errors.show_cursor(show=True)
    fail(line)
    console.file.flush()
    os._exit(code)
