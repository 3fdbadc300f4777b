"""A PostgreSQL of Debian's packages: another major version than the embedded one, and with passwords."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from doceval_pipeline_tests.cli.running import free_port
from doceval_pipeline_tests.outsiders.installed import postgresql_programs, program
from doceval_pipeline_tests.unprivileged import NOBODY

SUPERUSER = "postgres"
PASSWORD = "of-a-test"


@dataclass(frozen=True)
class DebianServer:
    """A running server on 127.0.0.1, which asks every user for `PASSWORD`."""

    port: int
    log: Path = Path("/dev/null")

    def url(self, database: str, user: str = SUPERUSER) -> str:
        """What an environment variable of the three holds for one of its databases."""
        return f"postgresql+psycopg2://{user}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres", user: str = SUPERUSER) -> list[Any]:
        """Run one statement by itself; gives its rows."""
        opened = psycopg2.connect(
            host="127.0.0.1", port=self.port, dbname=database, user=user, password=PASSWORD
        )
        with closing(opened) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def accept_tls(self) -> None:
        """From now on it speaks TLS with those who ask for it."""
        ((data,),) = self.execute("SHOW data_directory")
        key, certificate = Path(data) / "server.key", Path(data) / "server.crt"
        _run(
            program("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=127.0.0.1",
            "-keyout", key, "-out", certificate,
        )  # fmt: skip
        self.execute("ALTER SYSTEM SET ssl = on")
        self.execute("SELECT pg_reload_conf()")

    def make_login(self, name: str, *groups: str) -> None:
        """A role that may log in with `PASSWORD`, a member of the groups, and nothing more."""
        self.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{PASSWORD}'")
        for group in groups:
            self.execute(f'GRANT "{group}" TO "{name}"')

    def make_database(self, name: str, owner: str = SUPERUSER, encoding: str = "UTF8") -> None:
        """An empty database of an owner."""
        self.execute(
            f'CREATE DATABASE "{name}" OWNER "{owner}" TEMPLATE template0'
            f" ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        )


@contextmanager
def debian_server() -> Iterator[DebianServer]:
    """A new server with default settings in a temporary folder; gone afterwards."""
    programs = postgresql_programs()
    with tempfile.TemporaryDirectory(prefix="debian-server-") as folder:
        base = Path(folder)
        (base / "password").write_text(PASSWORD)
        for path in (base, base / "password"):
            _give_away(path)
        data = base / "data"
        _run(
            programs / "initdb", "-D", data, "-U", SUPERUSER, "-E", "UTF8", "--locale=C", "--no-sync",
            "-A", "scram-sha-256", "--pwfile", base / "password",
        )  # fmt: skip
        port = free_port()
        with _running(data, port):
            yield DebianServer(port, base / "log")


@contextmanager
def replica(server: DebianServer) -> Iterator[DebianServer]:
    """A hot standby of a server; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="debian-replica-") as folder:
        _give_away(Path(folder))
        data, port = Path(folder) / "data", free_port()
        primary = f"host=127.0.0.1 port={server.port} user={SUPERUSER} password={PASSWORD}"
        _run(postgresql_programs() / "pg_basebackup", "-d", primary, "-D", data, "-R", "-c", "fast", "-N")
        with _running(data, port):
            yield DebianServer(port)


@contextmanager
def _running(data: Path, port: int) -> Iterator[None]:
    control = postgresql_programs() / "pg_ctl"
    options = (
        f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={data.parent} -c fsync=off"
    )
    _run(control, "-D", data, "-w", "-l", data.parent / "log", "-o", options, "start")
    try:
        yield
    finally:
        _run(control, "-D", data, "-w", "-m", "immediate", "stop")


def _run(*command: object) -> None:
    """Run a program as a user that PostgreSQL accepts, which root is not."""
    account = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, cwd="/", **account)  # type: ignore[call-overload]


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, NOBODY, NOBODY)
