"""A real backfill through the daemon over many batches, in every state that a kill may leave."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.running import (
    doceval,
    launch_backfill,
    query,
    read_json,
    running_up,
    until,
    write_evaluation,
)

pytestmark = pytest.mark.slow
PORT = "3921"
BATCHES = 20
DOCUMENTS = 6
STAGING = ["batch_config_snapshot", "document_assignment", "encoded_documents", "queue_rows"]
EVERYTHING = """
    SELECT (SELECT count(*) FROM docs), (SELECT count(*) FROM llm_responses),
           (SELECT md5(string_agg(d::text, '' ORDER BY id)) FROM docs d),
           (SELECT md5(string_agg(r::text, '' ORDER BY id)) FROM llm_responses r)
"""
# Half a staging, or one that is killed while it stores documents.
BEGIN = """
import os, signal, sys
from doceval_pipeline.batches.staging import steps, storing
from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.settings import Settings
storing.PORTION_FILES = 2
databases, batch = open_databases(Settings.from_environment()), int(sys.argv[1])
steps.seal_batch(databases, batch)
steps.assign_documents(databases, batch)
if sys.argv[2] == "killed":
    kill = lambda done, *_: os.kill(os.getpid(), signal.SIGKILL) if done else None
    steps.store_documents(databases, batch, kill)
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="doceval-bf-"))
    yield folder
    EmbeddedServer(folder).stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator["subprocess.Popen[str]"]:
    yield from running_up(home, PORT)


def finished(home: Path, backfill: str) -> bool:
    runs = query(
        home,
        "SELECT status, count(*) FROM runs JOIN run_tags USING (run_id) "
        "WHERE key = 'dagster/backfill' AND value = %s GROUP BY 1",
        backfill,
        database="dagster",
    )
    assert "FAILURE" not in dict(runs)
    return dict(runs) == {"SUCCESS": BATCHES}


def test_a_backfill_repairs_what_is_missing_and_a_second_one_changes_nothing(
    up: "subprocess.Popen[str]", home: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "DOCEVAL_HOME": str(home)}
    for number in range(BATCHES):
        file = write_evaluation(tmp_path / str(number), f"batch {number} of many", DOCUMENTS)
        assert doceval("apply", str(file), DOCEVAL_HOME=str(home)).returncode == 0
    batches = [status["batch"] for status in read_json("status", DOCEVAL_HOME=str(home))]
    assert len(batches) == BATCHES
    for number, batch in enumerate(batches):
        if number % 4 == 1:
            assert doceval("stage", str(batch), DOCEVAL_HOME=str(home)).returncode == 0
        elif number % 4 in (2, 3):
            how = "killed" if number % 4 == 2 else "half"
            ended = subprocess.run(
                [sys.executable, "-c", BEGIN, str(batch), how], env=environment, check=False
            )
            assert ended.returncode == (-9 if how == "killed" else 0)
    keys = [f"batch-{batch:06d}" for batch in batches]
    registered = "SELECT count(*) FROM dynamic_partitions"
    until(lambda: query(home, registered, database="dagster") == [(BATCHES,)])

    first = launch_backfill(PORT, keys, STAGING)
    until(lambda: finished(home, first), seconds=400)
    after = read_json("status", DOCEVAL_HOME=str(home))
    assert {(s["status"], s["documents"]["staged"], s["cells"]["waiting"]) for s in after} == {
        ("STAGED", DOCUMENTS, 4 * DOCUMENTS)
    }
    everything = query(home, EVERYTHING)
    assert everything[0][:2] == (BATCHES * DOCUMENTS, BATCHES * DOCUMENTS * 4)

    second = launch_backfill(PORT, keys, STAGING)
    until(lambda: finished(home, second), seconds=400)
    assert query(home, EVERYTHING) == everything
    assert read_json("check", DOCEVAL_HOME=str(home)) == []
