"""A PgBouncer of Debian's package before a server of Debian's, in one of its three modes."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2

from doceval_pipeline_tests.cli.running import free_port
from doceval_pipeline_tests.outsiders.debian_server import PASSWORD, DebianServer
from doceval_pipeline_tests.outsiders.installed import program
from doceval_pipeline_tests.unprivileged import NOBODY

SECONDS_TO_START = 10.0


@contextmanager
def pgbouncer(server: DebianServer, mode: str, **settings: str) -> Iterator[DebianServer]:
    """The server as it is reached through a PgBouncer of this mode, which asks for the same password."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        base = Path(folder)
        users = [row[0] for row in server.execute("SELECT rolname FROM pg_roles WHERE rolcanlogin")]
        (base / "users").write_text("".join(f'"{user}" "{PASSWORD}"\n' for user in users))
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(base / "users"),
            "pool_mode": mode,
            **settings,
        }
        configuration = base / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        account = {}
        if os.geteuid() == 0:
            for path in (base, *base.iterdir()):
                os.chown(path, NOBODY, NOBODY)
            account = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with (base / "log").open("w") as log:
            process = subprocess.Popen(
                [str(program("pgbouncer", "pgbouncer")), str(configuration)],
                stdout=log, stderr=log, cwd="/", **account,  # type: ignore[call-overload]
            )  # fmt: skip
        try:
            _await_start(DebianServer(port), process)
            yield DebianServer(port)
        finally:
            process.kill()
            process.wait()


def _await_start(reached: DebianServer, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        assert process.poll() is None, "pgbouncer has ended"
        with suppress(psycopg2.OperationalError):
            reached.execute("SELECT 1")
            return
        time.sleep(0.05)
    raise AssertionError("pgbouncer does not answer")
