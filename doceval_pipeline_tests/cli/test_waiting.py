"""A database server that does not answer is mentioned, and nobody waits for it for ever."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from doceval_pipeline.cli.waiting import Server
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
# The same command line, with less patience.
IMPATIENT = (
    "import sys\n"
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
        before = time.monotonic()
        shown, said = start("status").communicate(timeout=60)
        assert time.monotonic() - before < 20
    assert (shown, said.splitlines(keepends=True)[0]) == ("", MENTIONED)
    assert said.splitlines()[1].startswith(
        "the embedded PostgreSQL did not answer for 2 s: see whether it is"
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
        before = time.monotonic()
        _, said = waiting.communicate(timeout=60)
        assert time.monotonic() - before < 10
    assert (waiting.returncode, said, batch.status()) == (130, "interrupted\n", "SAVED")


def test_a_server_answers_by_any_word_and_by_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = Server("a server", ("127.0.0.1", port))
        assert not server.answers(0.2)
        accepted, _ = listening.accept()
        accepted.close()
    assert server.answers(0.2), "it refuses"
    assert Server("none", "/nowhere/.s.PGSQL.5432").answers(0.2)
