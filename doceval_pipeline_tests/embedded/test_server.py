"""The embedded server among processes that are killed, and among things that are not its own."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from doceval_pipeline.embedded.account import first_closed
from doceval_pipeline.embedded.processes import MARK
from doceval_pipeline.embedded.server import EmbeddedServer, server_program
from doceval_pipeline.embedded.sockets import name_elsewhere
from doceval_pipeline.errors import EmbeddedServerError
from doceval_pipeline_tests.unprivileged import NOBODY, unprivileged

ENSURE = """
import sys
from pathlib import Path
from doceval_pipeline.embedded.server import EmbeddedServer
EmbeddedServer(Path(sys.argv[1])).ensure()
print("ready")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    made = EmbeddedServer(tmp_path / "home")
    yield made
    made.stop()


def ensure_in_another_process(home: Path, **options: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", ENSURE, str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(server: EmbeddedServer, statement: str) -> object:
    connection = psycopg2.connect(host=str(server.sockets), user="postgres", dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
        found = cursor.fetchone() if cursor.description else None
    connection.close()
    return found[0] if found else None


def test_a_server_that_is_stopped_leaves_no_empty_folder_for_its_socket() -> None:
    with tempfile.TemporaryDirectory() as parent:
        server = EmbeddedServer(Path(parent) / ("long" * 30))
        for stays in (False, True):
            server.ensure()
            folder = server.sockets
            assert folder.name == name_elsewhere(server.home)
            if stays:
                (folder / "a file of somebody").touch()
            assert server.stop()
            assert folder.exists() == stays
        (folder / "a file of somebody").unlink()
        folder.rmdir()


def postmaster(server: EmbeddedServer) -> psutil.Process:
    return psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))


def test_eight_starters_at_once_get_one_server(server: EmbeddedServer) -> None:
    starters = [ensure_in_another_process(server.home) for _ in range(8)]
    # The pipes reach their end, too: the server holds none of them open.
    assert [starter.communicate(timeout=60) for starter in starters] == [("ready\n", "")] * 8
    assert run(server, "SELECT 1") == 1
    assert len(list(server.data.glob("postmaster.pid"))) == 1
    assert server.log_path.read_text().count("database system is ready") == 1


def test_a_killed_postmaster_is_started_again_with_its_data(server: EmbeddedServer) -> None:
    server.ensure()
    run(server, "CREATE TABLE kept AS SELECT 7 AS value")
    postmaster(server).kill()
    server.ensure()
    assert run(server, "SELECT value FROM kept") == 7


def test_a_starter_killed_in_the_middle_leaves_nothing_that_is_taken_for_a_server(
    server: EmbeddedServer,
) -> None:
    starter = ensure_in_another_process(server.home, process_group=0)
    while not list(server.home.glob(".postgres-unfinished-*/PG_VERSION")):
        assert starter.poll() is None
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    server.ensure()
    assert run(server, "SELECT 1") == 1


def test_a_pid_file_that_names_another_program_harms_neither(server: EmbeddedServer) -> None:
    server.ensure()
    pid_file = server.data / "postmaster.pid"
    content = pid_file.read_text()
    postmaster(server).kill()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pid_file.write_text(content.replace(content.split("\n")[0], str(stranger.pid), 1))
        assert not server.stop()
        assert stranger.poll() is None
        server.ensure()
        assert run(server, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize(
    "said",
    [b"", b"garbage\n", b"-1\n", b"0\n", b"1\n", b"99999999999999999999\n", b"\xff\xfe\0", b"9" * 100_000],
)
def test_a_pid_file_that_names_no_server_of_ours_stops_nothing(tmp_path: Path, said: bytes) -> None:
    server = EmbeddedServer(tmp_path)
    server.data.mkdir()
    (server.data / "postmaster.pid").write_bytes(said)
    assert server.stop() is False


def test_a_pid_file_that_names_a_zombie_does_not_count_as_running(server: EmbeddedServer) -> None:
    server.ensure()
    pid_file = server.data / "postmaster.pid"
    content = pid_file.read_text()
    postmaster(server).kill()
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    pid_file.write_text(content.replace(content.split("\n")[0], str(zombie.pid), 1))
    server.ensure()
    assert run(server, "SELECT 1") == 1
    zombie.wait()


def test_a_folder_of_another_user_is_not_changed(server: EmbeddedServer) -> None:
    server.data.mkdir(parents=True)
    (server.data / "thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedServerError, match="was not created by doceval and is not used"):
        server.ensure()
    assert [path.name for path in server.data.iterdir()] == ["thesis.txt"]


def test_data_of_another_major_version_are_refused_with_both_versions(server: EmbeddedServer) -> None:
    server.ensure()
    server.stop()
    (server.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedServerError, match="created by PostgreSQL 12, but the embedded version is 18"):
        server.ensure()


def test_a_home_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / ("long" * 30) / "home")
    try:
        server.ensure()
        assert run(server, "SELECT 1") == 1
        assert stat.S_IMODE(server.sockets.stat().st_mode) == 0o700
    finally:
        server.stop()


def test_a_socket_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / ("long" * 30) / "home")
    server.sockets.mkdir()
    server.sockets.chmod(0o755)
    try:
        with pytest.raises(EmbeddedServerError, match="can be entered by other users"):
            server.ensure()
    finally:
        server.sockets.rmdir()


def test_the_server_listens_on_no_network_address_and_its_folders_are_private(server: EmbeddedServer) -> None:
    server.ensure()
    assert run(server, "SHOW listen_addresses") == ""
    assert postmaster(server).net_connections("inet") == []
    for folder in (server.data, server.sockets):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_safety_is_not_switched_off(server: EmbeddedServer) -> None:
    server.ensure()
    assert [run(server, f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")] == [
        "on"
    ] * 3


def test_stopping_twice_says_that_nothing_ran(server: EmbeddedServer) -> None:
    server.ensure()
    assert server.stop()
    assert not server.is_running()
    assert not server.stop()


def test_a_signal_to_the_group_of_a_starter_does_not_reach_the_server(server: EmbeddedServer) -> None:
    starter = ensure_in_another_process(server.home, process_group=0)
    starter.communicate(timeout=60)
    assert os.getpgid(postmaster(server).pid) != starter.pid


def test_finding_the_server_running_takes_milliseconds(server: EmbeddedServer) -> None:
    server.ensure()
    started = time.monotonic()
    for _ in range(10):
        server.ensure()
    assert (time.monotonic() - started) / 10 < 0.25


def test_a_database_is_created_once_also_by_several_at_once(server: EmbeddedServer) -> None:
    server.ensure()
    for _ in range(2):
        server.ensure_database("KnowledgeDocuments")
    assert run(server, "SELECT count(*) FROM pg_database WHERE datname = 'KnowledgeDocuments'") == 1


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"cannot use .*/file"):
        EmbeddedServer(tmp_path / "file").ensure()


def test_a_process_of_a_supervisor_makes_no_server_where_its_home_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "moved"
    monkeypatch.setenv(MARK, str(home))
    with pytest.raises(EmbeddedServerError, match="was moved or removed while doceval ran"):
        EmbeddedServer(home).ensure()
    assert not home.exists()


def test_a_start_that_fails_repeats_the_last_words_of_the_log(server: EmbeddedServer) -> None:
    server.ensure()
    server.stop()
    with (server.data / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedServerError, match=r"did not start \(.*configuration file"):
        server.ensure()


def closed_to_others() -> bool:
    """Whether this checkout lies where an ordinary user cannot go, as below /root."""
    return os.geteuid() == 0 and first_closed(server_program(), NOBODY, NOBODY) is not None


@pytest.mark.skipif(closed_to_others(), reason="no other user can read this checkout")
def test_it_runs_as_a_normal_user() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "home")
        user = os.geteuid() or NOBODY
        os.chown(folder, user, -1)
        unprivileged(server.ensure)
        assert postmaster(server).uids().effective == user
        assert server.stop()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_where_namespaces_are_refused_root_runs_it_as_nobody(
    monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    """Elsewhere than as root this is the case of a normal user, and must work all the same."""
    monkeypatch.setattr("doceval_pipeline.embedded.account._namespaces_work", lambda: False)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = EmbeddedServer(Path(folder) / "home")
        if closed_to_others():
            with pytest.raises(EmbeddedServerError, match="move this project to an accessible folder"):
                server.ensure()
            return
        before = os.umask(umask)
        try:
            server.ensure()
        finally:
            os.umask(before)
        assert postmaster(server).uids().effective != 0
        assert stat.S_IMODE(server.home.stat().st_mode) == 0o711
        assert server.stop()


@pytest.mark.parametrize("mode", [0o700])
def test_an_unreachable_home_is_rejected_and_no_permission_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setattr("doceval_pipeline.embedded.account._namespaces_work", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("doceval_pipeline.embedded.server.server_program", lambda: Path("/bin/sh"))
    tmp_path.chmod(mode)
    with pytest.raises(EmbeddedServerError, match="other users cannot enter"):
        EmbeddedServer(tmp_path / "home").ensure()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode


def test_the_url_names_its_driver_and_survives_odd_folders(tmp_path: Path) -> None:
    from sqlalchemy import make_url

    home = tmp_path / "a b%&'é\udcff"
    server = EmbeddedServer(home)
    url = make_url(server.url("KnowledgeDocuments"))
    assert (url.drivername, url.database) == ("postgresql+psycopg2", "KnowledgeDocuments")
    assert url.query["host"] == str(server.sockets)
    server.ensure()
    assert server.stop()


def test_the_server_is_no_child_of_its_starter_who_may_end_all_its_children(server: EmbeddedServer) -> None:
    server.ensure()
    assert postmaster(server).pid not in {child.pid for child in psutil.Process().children(recursive=True)}
