"""Says when a database server does not answer, instead of waiting for it in silence.

libpq waits without a limit that could be set, and lets nobody interrupt it. Beside it each server is asked
over a connection of its own for the first byte that PostgreSQL answers, which needs no login and takes no
place among its connections. A statement that takes long is no such case: its server answers. Nothing is asked
in the first seconds, so that the logs of servers that answer say nothing of it.
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

# From when on the silence is mentioned, and ends a command that only reads.
SECONDS_TO_MENTION = 10.0
SECONDS_TO_END = 30.0
SECONDS_BETWEEN = 5.0
# Until a Ctrl-C that Python did not get to handle ends the process.
SECONDS_TO_INTERRUPT = 0.3
# The first message of the protocol, "is GSSAPI spoken here?", which every server and pooler answers. A server
# with TLS that is asked for that instead, and left, writes it into its log.
ASK = (8).to_bytes(4) + (80877104).to_bytes(4)


@dataclass(frozen=True)
class Server:
    """A database server: what people call it, and where it listens.

    Parameters
    ----------
    address
        The path of a socket, or host and port.
    embedded
        The embedded server whose socket that is: nothing is sent to another account that listens there.
    """

    name: str
    address: str | tuple[str, int]
    embedded: EmbeddedServer | None = None

    def answers(self, seconds: float) -> bool:
        """Whether it says anything within some seconds; a refusal is an answer too."""
        deadline = time.monotonic() + seconds
        try:
            with closing(self._connect(seconds)) as asked:
                asked.settimeout(max(deadline - time.monotonic(), 0.01))
                asked.sendall(ASK)
                asked.recv(1)
        except BlockingIOError:
            # So many wait for it that the system takes no more.
            time.sleep(max(deadline - time.monotonic(), 0))
            return False
        except TimeoutError:
            return False
        except (OSError, UnicodeError, EmbeddedServerError):
            # The command is told the same. Python refuses some names of hosts as UnicodeError.
            return True
        return True

    def _connect(self, seconds: float) -> socket.socket:
        if not isinstance(self.address, str):
            return socket.create_connection(self.address, seconds)
        with ExitStack() as exits:
            asked = exits.enter_context(socket.socket(socket.AF_UNIX))
            asked.settimeout(seconds)
            if self.embedded is not None:
                folder, accounts = Path(self.address).parent, self.embedded.accounts()
                require_private(folder, accounts)
            asked.connect(os.fsencode(self.address))
            if self.embedded is not None:
                require_peer(asked, folder, accounts)
            exits.pop_all()
        return asked


@contextmanager
def watching(only_reads: bool) -> Iterator[None]:
    """Watch the database servers of the environment while a command runs.

    Ends the process at Ctrl-C, where Python cannot because libpq waits; and if the command `only_reads`,
    after 30 s in which a server did not answer.
    """
    servers = _servers(only_reads)
    over = threading.Event()
    if servers:
        threading.Thread(target=_watch, args=(servers, only_reads, over), daemon=True).start()
    try:
        with _interruptible(servers, over) if servers else nullcontext():
            yield
    finally:
        over.set()


def _servers(only_reads: bool) -> list[Server]:
    """The servers that a command may wait for, each once; none where the environment names none."""
    try:
        settings = Settings.from_environment()
    except ConfigurationError:
        return []
    # Nothing that only reads needs Dagster's own database.
    wanted = (DOC_EVAL, KNOWLEDGE) if only_reads else (DOC_EVAL, KNOWLEDGE, DAGSTER)
    found = [_server(database[0], database_url(settings, database), settings) for database in wanted]
    return list({server.address: server for server in reversed(found) if server}.values())


def _server(variable: str, url: str, settings: Settings) -> Server | None:
    """None for a URL that cannot be read, or that leaves to libpq where the server is."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    host, port = parsed.host or parsed.query.get("host"), str(parsed.port or parsed.query.get("port", 5432))
    if not isinstance(host, str) or "," in host or not port.isdecimal() or "hostaddr" in parsed.query:
        return None
    embedded = EmbeddedServer(settings.home)
    if embedded.is_reached_by(host):
        return Server("the embedded PostgreSQL", f"{host}/{SOCKET}", embedded)
    name = f"the database server of {variable}"
    return Server(name, f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, int(port)))


def _watch(servers: list[Server], only_reads: bool, over: threading.Event) -> None:
    # Half of the silence before the first question, and half after it.
    pause = patience = SECONDS_TO_MENTION / 2
    while not over.wait(pause):
        for server in servers:
            _wait_for(server, patience, only_reads, over)
        pause, patience = SECONDS_BETWEEN, SECONDS_TO_MENTION


def _wait_for(server: Server, patience: float, only_reads: bool, over: threading.Event) -> None:
    if server.answers(patience) or over.is_set():
        return
    warn(f"{server.name} does not answer; still waiting")
    while not server.answers(SECONDS_TO_END - SECONDS_TO_MENTION) and not over.is_set():
        if only_reads:
            _end(
                f"{server.name} did not answer for {SECONDS_TO_END:g} s: see whether it is stopped or its "
                "machine is overloaded, and ask again",
                1,
            )


@contextmanager
def _interruptible(servers: list[Server], over: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals, told = socket.socketpair()
    with closing(signals), closing(told):
        told.setblocking(False)
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_await_interrupts, args=(signals, servers, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            signal.set_wakeup_fd(before)


def _await_interrupts(signals: socket.socket, servers: list[Server], over: threading.Event) -> None:
    main = threading.main_thread().ident
    while not over.is_set():
        with suppress(OSError, ValueError):
            if not select.select([signals], [], [], 1)[0] or signal.SIGINT not in signals.recv(64):
                continue
            where = _place(main)
            # Where Python handles it, the main thread moves.
            if over.wait(SECONDS_TO_INTERRUPT) or _place(main) != where:
                continue
            if not all(server.answers(SECONDS_TO_INTERRUPT) for server in servers) and not over.is_set():
                _end("interrupted", 130)


def _place(thread: int | None) -> tuple[int, int]:
    frame = sys._current_frames().get(thread or 0)
    return (0, 0) if frame is None else (id(frame), frame.f_lasti)


def _end(line: str, code: int) -> None:
    """End the process at once, as what waits in libpq cannot be told to."""
    # What a bar hid.
    errors.show_cursor(True)
    fail(line)
    console.file.flush()
    os._exit(code)
