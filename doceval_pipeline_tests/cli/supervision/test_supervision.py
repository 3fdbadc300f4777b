"""One supervisor per home, and nothing of it is left, whatever ends it. Real processes."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from doceval_pipeline.cli.supervision.home_lock import HomeHolder, HomeLock, holder_of
from doceval_pipeline.cli.supervision.strays import mark_of, strays
from doceval_pipeline.cli.supervision.supervisor import Supervisor, require_free, stop_all
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, free_port, until


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="doceval-alone-"))
    yield folder
    doceval("down", DOCEVAL_HOME=str(folder))
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def up(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`doceval up` that answers; it is ended and leaves nothing."""
    process = subprocess.Popen(
        [DOCEVAL, "up", "--port", str(free_port())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "DOCEVAL_HOME": str(home)},
        start_new_session=True,
    )
    try:
        until(lambda: (holder := holder_of(home)) is not None and holder.url)
        yield process
    finally:
        doceval("down", DOCEVAL_HOME=str(home))
        process.wait(timeout=60)


def ignored_by(number: int) -> set[int]:
    """The signals that a process ignores."""
    (mask,) = re.findall(r"^SigIgn:\s*([0-9a-f]+)$", Path(f"/proc/{number}/status").read_text(), re.MULTILINE)
    return {each for each in range(1, 65) if int(mask, 16) >> (each - 1) & 1}


def nothing_is_left(home: Path) -> bool:
    return not strays(home) and holder_of(home) is None


def test_a_home_has_one_holder_who_is_named_and_nobody_after_a_kill(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    with HomeLock(tmp_path, "doceval up") as lock:
        lock.write_holder(url="http://127.0.0.1:1")
        found = holder_of(tmp_path)
        assert found is not None
        assert (found.pid, found.url) == (os.getpid(), "http://127.0.0.1:1")
        line = f"doceval up already runs for {tmp_path} (pid {os.getpid()}, http://127.0.0.1:1): "
        with pytest.raises(ConfigurationError) as refused, HomeLock(tmp_path, "doceval demo"):
            pass
        assert str(refused.value).startswith(line)
    assert holder_of(tmp_path) is None
    # A killed one leaves what it wrote, and no lock.
    (tmp_path / "up.lock").write_text(f'{{"pid": {os.getpid()}, "command": "doceval up", "url": null}}')
    assert holder_of(tmp_path) is None
    with HomeLock(tmp_path, "clearing up"):
        assert holder_of(tmp_path) is None, "what the killed one left is not of the one that clears up"


@pytest.mark.parametrize("who", ["another program", "nobody"])
def test_down_signals_no_process_that_does_not_hold_the_lock(
    settings: Settings, tmp_path: Path, who: str
) -> None:
    program = subprocess.Popen(["sleep", "60"])
    try:
        if who == "nobody":
            program.kill()
            program.wait()
        with (tmp_path / "up.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(json.dumps({"pid": program.pid, "command": "doceval up", "url": None}))
            lock.flush()
            assert stop_all(replace(settings, home=tmp_path)) == {}
            assert who == "nobody" or program.poll() is None
            assert HomeHolder(os.getpid(), "doceval up").process(tmp_path) == psutil.Process()
    finally:
        program.kill()
        program.wait()


def test_the_guard_is_not_ended_with_the_processes_that_it_clears_up_after(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of an up that something of another up has started.
    monkeypatch.setenv(*next(iter(mark_of(tmp_path).items())))
    supervisor = Supervisor(replace(settings, home=tmp_path), "doceval up")
    with supervisor._guard(owns_server=False):
        (guard,) = [one for one in psutil.Process().children() if "guard.py" in " ".join(one.cmdline())]
        assert guard.pid not in [process.pid for process in strays(tmp_path)]


@pytest.mark.parametrize(
    "said", ["", "{", "[]", '{"pid": "x", "command": ""}', '{"pid": -1, "command": ""}', "\0"]
)
def test_what_a_stranger_wrote_into_the_lock_is_no_holder(tmp_path: Path, said: str) -> None:
    (tmp_path / "up.lock").write_text(said)
    with (tmp_path / "up.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder_of(tmp_path) is None


def test_a_home_whose_file_system_has_no_locks_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot be locked .* a folder on a local disk"):
        HomeLock(tmp_path, "doceval up").__enter__()


def test_only_processes_with_the_mark_of_this_home_are_strays(tmp_path: Path) -> None:
    ours, others = tmp_path / "ours", tmp_path / "others"
    environments = [
        {**os.environ, **mark_of(ours)},
        {**os.environ, **mark_of(others)},
        {**os.environ, "DOCEVAL_HOME": str(ours)},
    ]
    started = [subprocess.Popen(["sleep", "60"], env=environment) for environment in environments]
    try:
        until(lambda: [process.pid for process in strays(ours)] == [started[0].pid], 10)
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_taken_port_is_answered_with_one_that_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} is taken") as refused:
            require_free(port)
    require_free(int(str(refused.value).split()[-1]))


def test_down_of_a_home_that_is_not_there_makes_none(tmp_path: Path) -> None:
    ended = doceval("down", DOCEVAL_HOME=str(tmp_path / "none"))
    assert (ended.returncode, ended.stdout.strip()) == (0, "nothing was running")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_of_two_that_start_at_once_one_runs_and_ends_by_ctrl_c_alone(home: Path) -> None:
    environment = {**os.environ, "DOCEVAL_HOME": str(home)}
    started = [
        subprocess.Popen(
            ["nohup", DOCEVAL, "up", "--port", str(free_port())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        until(lambda: (holder := holder_of(home)) is not None and holder.url)
        until(lambda: any(process.poll() is not None for process in started), 20)
        (refused,) = [process for process in started if process.poll() is not None]
        (running,) = [process for process in started if process.poll() is None]
        assert refused.stderr is not None
        assert "already runs for" in refused.stderr.read()
        assert signal.SIGHUP in ignored_by(running.pid)
        for _ in range(3):
            running.send_signal(signal.SIGINT)
            time.sleep(0.2)  # while it stops
        assert running.wait(timeout=40) == 0
        assert nothing_is_left(home)
    finally:
        doceval("down", DOCEVAL_HOME=str(home))
        for process in started:
            process.wait(timeout=60)


@pytest.mark.slow
def test_a_killed_up_leaves_nothing_behind(home: Path) -> None:
    with up(home) as process:
        assert len(strays(home)) >= 3
        process.kill()
        process.wait()
        until(lambda: nothing_is_left(home) and not EmbeddedServer(home).is_running(), 40)


@pytest.mark.slow
def test_down_finds_what_nobody_has_cleared_up(home: Path) -> None:
    with up(home) as process:
        started = psutil.Process(process.pid).children()
        guard = next(child for child in started if "guard.py" in " ".join(child.cmdline()))
        guard.kill()
        process.kill()
        process.wait()
        assert strays(home)
        said = doceval("down", DOCEVAL_HOME=str(home)).stdout
        assert {"daemon", "webserver"} <= set(said.removeprefix("stopped: ").strip().split(", "))
        assert nothing_is_left(home)


@pytest.mark.slow
def test_a_closed_terminal_ends_it(home: Path) -> None:
    controlling, terminal = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", DOCEVAL, "up", "--port", str(free_port())],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "DOCEVAL_HOME": str(home)},
    )
    os.close(terminal)
    until(lambda: (holder := holder_of(home)) is not None and holder.url)
    os.close(controlling)
    process.wait(timeout=40)
    assert nothing_is_left(home)


@pytest.mark.slow
def test_down_ends_an_up_that_only_starts_and_was_stopped_meanwhile(home: Path) -> None:
    starting = subprocess.Popen(
        [DOCEVAL, "up", "--port", str(free_port())],
        env={**os.environ, "DOCEVAL_HOME": str(home)},
        stdout=subprocess.PIPE,
    )
    until(lambda: holder_of(home) is not None)
    starting.send_signal(signal.SIGSTOP)
    assert "doceval up" in doceval("down", DOCEVAL_HOME=str(home)).stdout
    assert starting.wait(timeout=40) == 0
    assert nothing_is_left(home)


@pytest.mark.slow
def test_a_home_that_is_moved_ends_its_up_and_works_in_its_new_place(home: Path) -> None:
    moved = home.with_name(f"{home.name}-moved")
    with up(home) as process:
        home.rename(moved)
        assert process.wait(timeout=40) == 1
    assert not (home / "postgres").exists()
    try:
        assert doceval("status", DOCEVAL_HOME=str(moved)).returncode == 0
        assert "embedded server" in doceval("down", DOCEVAL_HOME=str(moved)).stdout
    finally:
        # Dagster may have written into the old place meanwhile.
        shutil.rmtree(home, ignore_errors=True)
        moved.rename(home)
