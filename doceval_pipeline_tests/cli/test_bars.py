"""Long work shows how far it is, in a real terminal; nowhere else, and never in the way."""

import os
import pty
import subprocess
import threading
from pathlib import Path

import pytest

from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, write_evaluation

pytestmark = pytest.mark.usefixtures("databases")


def in_a_terminal(*arguments: str) -> tuple[str, str, int]:
    """Run a command whose standard error is a terminal; what it printed there, and to standard output."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        # Linux tells the end of a terminal by an error.
        try:
            while piece := os.read(ours, 65536):
                shown.append(piece)
        except OSError:
            pass

    process = subprocess.Popen(
        [DOCEVAL, *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    printed, _ = process.communicate(timeout=120)
    reader.join()
    os.close(ours)
    return b"".join(shown).decode(), printed, process.returncode


@pytest.mark.slow
def test_staging_archiving_and_restoring_draw_bars(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    shown, printed, code = in_a_terminal("stage", "q4")
    assert (code, "storing documents" in shown, "3 of 3" in shown) == (0, True, True)
    doceval("simulate-processor", "--until-empty", "--latency", "0")
    shown, printed, code = in_a_terminal("archive", "q4")
    assert (code, "archiving documents" in shown, "verifying archived documents" in shown) == (0, True, True)
    path = printed.splitlines()[-1]
    shown, printed, code = in_a_terminal("restore", path)
    assert (code, "reading the archive" in shown, "storing documents" in shown) == (0, True, True)
    assert "\x1b[?25h" in shown, "the cursor is there again"
    shown, printed, code = in_a_terminal("archive", "q4", "--json")
    assert (code, shown) == (0, "")


def test_staging_shows_each_of_its_long_steps(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    shown, _, code = in_a_terminal("stage", "q4")
    places = [shown.find(step) for step in ("finding files", "storing documents", "queueing evaluations")]
    assert (code, "0 so far" in shown, "12 of 12" in shown) == (0, True, True)
    assert -1 not in places, shown
    assert places == sorted(places)


def test_nothing_is_drawn_where_nobody_looks(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    assert doceval("stage", "q4").stderr == ""


def test_a_failure_leaves_one_line_below_the_bars(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    shown, _, code = in_a_terminal("archive", "q4")
    assert code == 1
    assert shown.count("\n") == 1
    assert "has nothing to archive because it is SAVED: stage it first" in shown
