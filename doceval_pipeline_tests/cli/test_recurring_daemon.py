"""The real daemon with a schedule of every minute: one batch per minute, however the daemon ends."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, query, until
from doceval_pipeline_tests.conftest import write_old

PORT = "3841"
# How many minutes are watched; `make test-slow-recurring` takes 10.
MINUTES = int(os.environ.get("RECURRING_TEST_MINUTES", "2"))
# In a long watch, the machine is off for this many minutes once: they are made up once.
MINUTES_OFF = 3
MINUTE = timedelta(minutes=1)
OCCURRENCES = """
    SELECT due_at, outcome, batch_id, (SELECT array_agg(id ORDER BY id) FROM batches)
    FROM occurrences ORDER BY due_at
"""
OPEN = "SELECT FROM batches WHERE status <> 'STAGED'"


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="doceval-recurring-"))
    yield folder
    EmbeddedServer(folder).stop()
    shutil.rmtree(folder)


class Up:
    """`doceval up`, which can be stopped in several ways and started again."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [DOCEVAL, "up", "--port", PORT],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "DOCEVAL_HOME": str(self._home)},
            start_new_session=True,
        )
        until(self._answers)

    def _answers(self) -> bool:
        assert self._process.stdout is not None
        return "Dagster is at" in self._process.stdout.readline()

    def end(self) -> None:
        """As a service manager does."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=90)

    def kill(self) -> None:
        """As when the machine loses its power: all of its processes at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=60)


def define(home: Path, folder: Path) -> None:
    (folder / "inbox").mkdir()
    write_old(folder / "inbox" / "one.txt", "a document")
    content = {
        "connections": [{"name": "model", "provider": "simulation", "model": "m"}],
        "prompts": [{"name": "clarity", "text": "Is it clear?"}],
        "recurring": [
            {
                "name": "minutely",
                "schedule": "* * * * *",
                "folders": ["./inbox"],
                "connections": ["model"],
                "prompts": ["clarity"],
                "scope": "all",
                "skip_if_nothing_new": False,
            }
        ],
    }
    file = folder / "evaluation.json"
    file.write_text(json.dumps(content))
    applied = doceval("apply", str(file), DOCEVAL_HOME=str(home))
    assert applied.returncode == 0, applied.stderr


@pytest.mark.slow
def test_each_minute_has_one_batch_whatever_ends_the_daemon(home: Path, tmp_path: Path) -> None:
    up = Up(home)
    define(home, tmp_path)

    def recorded() -> list[Any]:
        return query(home, OCCURRENCES, database="doc_eval")

    ends: list[Callable[[], None]] = [up.kill, up.end]
    off: list[tuple[datetime, datetime]] = []
    for number in range(MINUTES - 1):
        known = len(recorded())
        until(lambda known=known: len(recorded()) > known, 150)
        began = datetime.now(UTC)
        ends[number % 2]()
        if number == MINUTES // 2 and MINUTES > MINUTES_OFF:
            time.sleep(60 * MINUTES_OFF)
        up.start()
        off.append((began, datetime.now(UTC)))
    known = len(recorded())
    until(lambda: len(recorded()) > known, 150)
    until(lambda: not query(home, OPEN, database="doc_eval"), 150)
    rows, end = recorded(), datetime.now(UTC)
    up.end()

    due = [row[0] for row in rows]
    assert {row[1] for row in rows} == {"MADE"}
    assert sorted(row[2] for row in rows) == rows[0][3], "each batch belongs to one minute"
    every = {due[0] + n * MINUTE for n in range(1 + int((end - due[0]) / MINUTE))}
    missed = every - set(due)
    print(f"{len(due)} minutes made, {len(missed)} of {len(every)} missed while off for {off}", flush=True)
    # Of several that came while it was off, the newest is made up; the last one may not be made yet.
    assert {time for time in missed if end - time > MINUTE} <= {
        time for began, back in off for time in every if began < time <= back - MINUTE
    }
    for began, back in off:
        assert len([time for time in due if began < time <= back]) <= 1, "what was missed is made up once"
