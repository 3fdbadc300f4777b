"""A database server that does not answer is mentioned, and nobody waits for it for ever."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from doceval_pipeline.batches.databases import DOC_EVAL, database_url
from doceval_pipeline.cli import cli, waiting
from doceval_pipeline.cli.command_table import ENTRIES, PATIENCE, CommandEntry, Patience
from doceval_pipeline.cli.waiting import PROBE, SECONDS_TO_MENTION, DatabaseServer, _server, _watch
from doceval_pipeline.embedded import sockets
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.embedded.sockets import SOCKET
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
# The same command line, with less patience. In the background of a script, Ctrl-C would be ignored.
IMPATIENT = (
    "import signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from doceval_pipeline.cli import main, waiting\n"
    "waiting.SECONDS_TO_MENTION, waiting.SECONDS_TO_END = 1.0, 2.0\n"
    "sys.argv = ['doceval', *sys.argv[1:]]\n"
    "main()\n"
)
MENTIONED = "the embedded PostgreSQL does not answer; still waiting\n"


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", IMPATIENT, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def stopped_server(home: Path) -> Iterator[int]:
    """The postmaster of the tests' own server, as after kill -STOP."""
    number = int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(number, signal.SIGSTOP)
    try:
        yield number
    finally:
        os.kill(number, signal.SIGCONT)


def test_a_command_that_only_reads_ends_where_the_server_is_stopped(
    batch_of: BatchOf, settings: Settings
) -> None:
    batch_of(documents=1)
    with stopped_server(settings.home):
        # It would wait for ever.
        shown, said = start("status").communicate(timeout=60)
    assert (shown, said.splitlines(keepends=True)[0]) == ("", MENTIONED)
    assert said.splitlines()[1].startswith(
        "the embedded PostgreSQL did not answer for 2 s: check whether it is"
    )


def test_a_command_that_writes_goes_on_when_the_server_does(batch_of: BatchOf, settings: Settings) -> None:
    batch = batch_of(documents=1)
    with stopped_server(settings.home):
        waiting = start("stage", batch.name)
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == MENTIONED
    shown, said = waiting.communicate(timeout=60)
    assert (waiting.returncode, said, batch.status()) == (0, "", "STAGED")
    assert shown.startswith(batch.key)


def test_ctrl_c_ends_a_wait_for_a_stopped_server_at_once(batch_of: BatchOf, settings: Settings) -> None:
    batch = batch_of(documents=1)
    with stopped_server(settings.home):
        waiting = start("stage", batch.name)
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == MENTIONED
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=60)
    assert (waiting.returncode, said, batch.status()) == (130, "interrupted\n", "SAVED")


def test_a_server_answers_by_any_word_and_by_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = DatabaseServer("a server", ("127.0.0.1", port))
        assert not server.answers(0.2)
        accepted, _ = listening.accept()
        accepted.close()
    assert server.answers(0.2), "it refuses"
    assert DatabaseServer("none", "/nowhere/.s.PGSQL.5432").answers(0.2)


@pytest.mark.parametrize("host", ["a" * 64, "a" * 64 + ".invalid", "a..b", "\udcff", "a\0b"])
def test_a_name_that_no_host_can_have_is_left_to_the_command(host: str) -> None:
    assert DatabaseServer("none", (host, 5432)).answers(0.2)


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A home beside whose data a socket fits."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def listening_folder(server: EmbeddedServer) -> socket.socket:
    """Listens in the place of a home's server."""
    server.sockets.mkdir(mode=0o700, parents=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(server.sockets / SOCKET))
    listening.listen()
    listening.settimeout(10)
    return listening


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_the_embedded_server_is_asked_only_where_nobody_else_can_listen(short_home: Path, mode: int) -> None:
    server = EmbeddedServer(short_home)
    with listening_folder(server) as listening:
        server.sockets.chmod(mode)
        asked = DatabaseServer("the embedded PostgreSQL", str(server.sockets / SOCKET), server)
        assert asked.answers(0.2) == (mode != 0o700)
        if mode == 0o700:
            with listening.accept()[0] as connection:
                assert connection.recv(100) == PROBE
        else:
            listening.settimeout(0)
            with pytest.raises(BlockingIOError):
                listening.accept()


def test_another_account_behind_the_socket_hears_nothing(
    short_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer(short_home)
    monkeypatch.setattr(sockets, "peer", lambda _: os.geteuid() + 1)
    with listening_folder(server) as listening:
        assert DatabaseServer("the embedded PostgreSQL", str(server.sockets / SOCKET), server).answers(0.2)
        with listening.accept()[0] as connection:
            assert connection.recv(100) == b""


def test_every_url_of_the_embedded_server_is_known_to_be_its_own(settings: Settings) -> None:
    embedded = EmbeddedServer(settings.home)
    for url in (None, embedded.url("doc_eval"), embedded.url("another")):
        found = _server("DOC_EVAL_URL", database_url(replace(settings, doc_eval_url=url), DOC_EVAL), settings)
        assert found is not None
        assert (found.embedded, found.name) == (embedded, "the embedded PostgreSQL")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What is noted for each command that is watched: whether it only reads."""
    noted: list[bool] = []

    @contextmanager
    def watching(*, only_reads: bool) -> Iterator[None]:
        noted.append(only_reads)
        yield

    monkeypatch.setattr(waiting, "watching", watching)
    return noted


def leaves(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and how it is typed; those of a group, also of groups in it."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name, below in command.commands.items():
        yield from leaves(below, *words, name)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_each_command_is_watched_by_its_patience_and_not_if_it_supervises(
    entry: CommandEntry, watched: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, leaf in leaves(cli.commands[entry.name], entry.name):
        # Without its work, so that nothing is started.
        monkeypatch.setattr(leaf, "params", [])
        monkeypatch.setattr(leaf, "callback", lambda: None)
        assert CliRunner().invoke(cli, words).exit_code == 0
        supervises = entry.patience is Patience.SUPERVISES
        assert watched == ([] if supervises else [entry.patience is Patience.ENDS]), words
        watched.clear()


@pytest.mark.parametrize("command", ["status", "recurring list", "stage"])
def test_a_command_is_watched_and_its_help_is_not(
    command: str, watched: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *rest = command.split()
    leaf = cli.commands[first]
    for name in rest:
        assert isinstance(leaf, click.Group)
        leaf = leaf.commands[name]
    monkeypatch.setattr(leaf, "callback", lambda **_: None)
    assert CliRunner().invoke(cli, [*command.split(), "--help"]).exit_code == 0
    assert watched == []
    batch = ["1"] if command == "stage" else []
    assert CliRunner().invoke(cli, [*command.split(), *batch]).exit_code == 0
    assert watched == [PATIENCE[first] is Patience.ENDS]


def test_a_server_that_answers_is_not_asked_in_the_first_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()
        pauses: list[float | None] = []

        def wait(seconds: float | None = None) -> bool:
            pauses.append(seconds)
            return True

        over.wait = wait  # type: ignore[method-assign]
        _watch([DatabaseServer("a server", listening.getsockname()[:2])], over, only_reads=True)
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert pauses == [SECONDS_TO_MENTION / 2]


@pytest.mark.parametrize("module", ["doceval_pipeline.cli", "click", "doceval_pipeline.cli.streams"])
def test_ctrl_c_while_the_command_line_is_imported_ends_with_130(module: str) -> None:
    program = (
        "import os, signal, sys\n"
        "from importlib.metadata import entry_points\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        "sys.argv = ['doceval', '--version']\n"
        "(script,) = entry_points(group='console_scripts', name='doceval')\n"
        "script.load()()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")
