"""Other accounts of the machine: one without a name, and one that is first where the socket should be."""

import os
import pwd
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.cli import main
from doceval_pipeline.embedded import account, sockets
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.running import doceval, free_port
from doceval_pipeline_tests.unprivileged import unprivileged

NAMELESS = 12345
STRANGER = 65533
pytestmark = [
    pytest.mark.outsiders,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other accounts"),
]


@pytest.fixture
def home_of_the_nameless() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NAMELESS, NAMELESS)
        home = Path(folder) / "home"
        yield home
        EmbeddedServer(home).stop()


def run_as_nameless(home: Path, *command: str) -> tuple[int, str]:
    """Run a command in a fork of that user's; its exit code and what it wrote to standard error."""

    def work() -> tuple[int, str]:
        os.environ["DOCEVAL_HOME"] = str(home)
        for name in ("HOME", "USER", "LOGNAME"):
            os.environ.pop(name, None)
        # The interpreter of the tests may lie where that user cannot read it.
        sys.executable = str(shutil.which("python3", path="/usr/bin:/usr/local/bin"))
        sys.argv = ["doceval", *command]
        code = 0
        with tempfile.TemporaryFile("w+") as said:
            os.dup2(said.fileno(), 2)
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
            said.seek(0)
            return code, said.read()

    code, said = unprivileged(work, NAMELESS)
    return code, said


def test_a_user_without_an_entry_among_the_accounts_has_a_server(home_of_the_nameless: Path) -> None:
    with pytest.raises(KeyError):
        pwd.getpwuid(NAMELESS)
    for command in ("init", "status", "check", "down", "status"):
        assert run_as_nameless(home_of_the_nameless, command) == (0, ""), command
    assert (home_of_the_nameless / "postgres").stat().st_uid == NAMELESS


def test_where_namespaces_are_refused_too_one_line_says_so(
    home_of_the_nameless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "_namespaces_work", lambda: False)
    code, said = run_as_nameless(home_of_the_nameless, "init")
    assert (code, len(said.splitlines())) == (1, 1)
    assert f"user id {NAMELESS} has no entry in /etc/passwd" in said


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o755])
@pytest.mark.parametrize("command", ["init", "status", "up", "down", "demo"])
def test_a_home_of_another_user_is_rejected_in_one_line(command: str, mode: int) -> None:
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        home = Path(parent) / "home"
        (home / "run").mkdir(parents=True)
        home.chmod(mode)
        code, said = run_as_nameless(home, command)
        # Nothing runs where nothing can be seen to run.
        assert (code, len(said.splitlines())) in [(1, 1), *([(0, 0)] if command == "down" else [])]
        assert "Traceback" not in said
        assert [path.name for path in home.iterdir()] == ["run"]


@pytest.fixture
def stranger_s_server() -> Iterator[tuple[Path, Path, Path]]:
    """A home with a long path, whose socket's folder another account made and listens in.

    Yields the home, that folder, and a file that gets all that is sent there.
    """
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        home = Path(parent) / ("long" * 30)
        folder = Path("/tmp") / sockets.name_elsewhere(home)
        heard = Path(parent) / "heard"
        heard.touch()
        os.chown(heard, STRANGER, STRANGER)
        child = os.fork()
        if not child:
            os.setgroups([])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            listen(folder, heard)
        deadline = time.monotonic() + 10
        while not (folder / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield home, folder, heard
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            shutil.rmtree(folder)


def listen(folder: Path, heard: Path) -> None:
    """Write down each byte that comes to a socket that all may connect to; never returns."""
    try:
        folder.mkdir()
        with socket.socket(socket.AF_UNIX) as server, heard.open("ab", buffering=0) as log:
            server.bind(str(folder / sockets.SOCKET))
            (folder / sockets.SOCKET).chmod(0o777)
            server.listen()
            folder.chmod(0o777)
            (folder / "ready").touch()
            while True:
                with server.accept()[0] as connection:
                    log.write(connection.recv(10_000))
    finally:
        os._exit(1)


@pytest.mark.parametrize("given_to_us", [False, True], ids=["their folder", "our folder, their process"])
def test_whoever_listens_there_first_is_refused_in_one_line_and_hears_nothing(
    stranger_s_server: tuple[Path, Path, Path], given_to_us: bool
) -> None:
    home, folder, heard = stranger_s_server
    if given_to_us:
        os.chown(folder, 0, 0)
        folder.chmod(0o700)
    for command, *arguments in (("init",), ("status",), ("down",), ("up", "--port", str(free_port()))):
        started = time.monotonic()
        ended = doceval(command, *arguments, DOCEVAL_HOME=str(home), TMPDIR="/tmp", XDG_RUNTIME_DIR="")
        assert time.monotonic() - started < 30
        assert heard.read_bytes() == b""
        if command != "down":
            assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
            assert str(STRANGER) in ended.stderr
            assert str(folder) in ended.stderr
        # `up` takes the lock of the home first.
        assert [path.name for path in home.glob("*")] == (["up.lock"] if command == "up" else [])
