"""Where the embedded server's socket lies, and whom a connection to it trusts."""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_postgres.utils import create_pg_engine
from sqlalchemy import create_engine

from doceval_pipeline.batches.databases import DAGSTER, Databases, database_url
from doceval_pipeline.embedded import account, sockets
from doceval_pipeline.embedded.engines import guard
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import EmbeddedServerError

OWN = {os.geteuid()}
OTHERS = {os.geteuid() + 1}
LONG = "long" * 30


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not below pytest's own folder: its path is too long for a socket.
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "runtime"
        folder.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """A program that listens in a private folder as PostgreSQL would; the folder, and what it is sent."""
    folder, received = tmp_path / "s", list[bytes]()
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / sockets.SOCKET))
        server.listen()

        def receive() -> None:
            with server.accept()[0] as connection:
                received.append(connection.recv(1000))

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        yield folder, received
        thread.join(10)


@pytest.mark.parametrize("name", ["home", "a b", "it's 50% of (a&b) + c=d"])
def test_the_socket_of_a_home_with_a_plain_path_lies_in_it(name: str) -> None:
    assert sockets.choose_folder(Path("/srv") / name) == Path("/srv") / name / "run"


@pytest.mark.parametrize("name", [LONG, "a,b", 'a"b', "a$b", "a`b", "a\\b", "é", "b\udcff"])
def test_other_homes_have_theirs_in_the_user_s_own_runtime_folder(runtime: Path, name: str) -> None:
    home = Path("/srv") / name
    chosen = sockets.choose_folder(home)
    assert (chosen.parent, chosen.name[:8]) == (runtime, "doceval-")
    assert sockets.choose_folder(home.with_name("other" + name)) != chosen
    assert sockets.choose_folder(home, other_account=True).parent != runtime


@pytest.mark.parametrize("spoil", ["open", "link", "gone", "relative", "long", "comma"])
def test_a_runtime_folder_that_cannot_be_used_is_passed_over(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    if spoil == "open":
        runtime.chmod(0o750)
    elif spoil == "link":
        (runtime.parent / "link").symlink_to(runtime)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime.parent / "link"))
    elif spoil == "gone":
        runtime.rmdir()
    elif spoil == "relative":
        monkeypatch.chdir(runtime.parent)
        monkeypatch.setenv("XDG_RUNTIME_DIR", "runtime")
    else:
        named = runtime / (LONG if spoil == "long" else "a,b")
        named.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(named))
    assert sockets.choose_folder(Path("/srv") / LONG).parent == Path(
        os.path.abspath(sockets._temporary_folder())
    )


def test_where_no_folder_will_do_the_refusal_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "runtime_folders", lambda **_: iter([Path("/") / LONG]))
    with pytest.raises(EmbeddedServerError, match="set XDG_RUNTIME_DIR, TMPDIR or DOCEVAL_HOME"):
        sockets.choose_folder(Path("/srv") / LONG)


def test_only_a_folder_of_a_trusted_account_alone_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert not sockets.require_private(folder, OWN)
    folder.mkdir(mode=0o700)
    assert sockets.require_private(folder, OWN)
    with pytest.raises(EmbeddedServerError, match=rf"belongs to user id {os.geteuid()}"):
        sockets.require_private(folder, OTHERS)
    for mode in (0o777, 0o1777, 0o770, 0o701, 0o710, 0o702, 0o720):
        folder.chmod(mode)
        with pytest.raises(EmbeddedServerError, match=f"can be entered by other users \\(mode {mode:04o}\\)"):
            sockets.require_private(folder, OWN)
    for thing in (tmp_path / "link", tmp_path / "dangling", tmp_path / "file"):
        thing.write_text("") if thing.name == "file" else thing.symlink_to(
            folder if thing.name == "link" else "x"
        )
        with pytest.raises(EmbeddedServerError, match="is not a folder"):
            sockets.require_private(thing, OWN)


def test_a_listener_of_another_account_is_refused_and_sent_nothing(
    listener: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, received = listener
    # The folder belongs to this user; only the listening process belongs to another one.
    monkeypatch.setattr(sockets, "peer", lambda _: os.geteuid() + 1)
    with pytest.raises(EmbeddedServerError, match=rf"user id {os.geteuid() + 1} listens on {folder}"):
        sockets.require_listener(folder, OWN)
    deadline = time.monotonic() + 10
    while not received:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert received == [b""]


def test_a_listener_of_ours_is_known_by_its_account(listener: tuple[Path, list[bytes]]) -> None:
    folder, _ = listener
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / sockets.SOCKET))
        assert sockets.peer(connection) == os.geteuid()


def test_a_missing_or_dead_socket_has_no_listener(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert not sockets.require_listener(tmp_path, OWN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / sockets.SOCKET))
    assert not sockets.require_listener(tmp_path, OWN)


def test_root_trusts_the_account_nobody_with_its_data_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = account._nobody().pw_uid
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert [account.trusted_accounts(owner) for owner in (None, 0, 1000, nobody)] == [
        {0},
        {0},
        {0},
        {0, nobody},
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert [account.trusted_accounts(owner) for owner in (None, 0, 1000, nobody)] == [{1000}] * 4


def test_every_engine_of_a_process_looks_before_it_connects(databases: Databases) -> None:
    """Also those that Dagster makes, and whichever of them opens another connection."""
    url = database_url(databases.settings, DAGSTER)
    folder = EmbeddedServer(databases.settings.home).sockets
    engines = [create_engine(url), create_pg_engine(url)]
    for engine in engines:
        engine.connect().close()
        engine.dispose()
    folder.chmod(0o755)
    try:
        for engine in (*engines, create_engine(url)):
            with pytest.raises(EmbeddedServerError, match="can be entered by other users"):
                engine.connect()
    finally:
        folder.chmod(0o700)


def test_a_server_is_found_from_another_environment_and_survives_a_logout(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer(tmp_path / LONG)
    try:
        server.ensure()
        exported = server.url("postgres")
        assert str(runtime) in exported
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert server.is_running()
        guard(server)
        engine = create_engine(exported)
        engine.connect().close()
        # What systemd does with the folder when the user's last session ends.
        (server.sockets / sockets.SOCKET).unlink()
        server.ensure()
        assert server.url("postgres") != exported
        assert server.is_own_url(exported, "postgres")
        engine.dispose()
        with engine.connect() as connection:
            folders = connection.exec_driver_sql("SHOW unix_socket_directories").scalar_one()
        assert folders.strip('"') == str(server.sockets)
    finally:
        server.stop()
