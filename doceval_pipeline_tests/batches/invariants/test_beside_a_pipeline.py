"""An audit beside working people, processors and ticks never reports passing states."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants import audit
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, cancel, pause, reprocess, resume
from doceval_pipeline.errors import BatchStateError
from doceval_pipeline_tests.batches.archiving.archives import restore_file
from doceval_pipeline_tests.batches.invariants.installation import quiet
from doceval_pipeline_tests.conftest import Sample, sample_batch

SECONDS = 30.0
ANSWER = """
    UPDATE llm_responses SET status = CASE WHEN id % 2 = 0 THEN 'S' ELSE 'F' END
    WHERE batch_id = :id AND status = 'QUEUED'
"""


def answer_late(batch: Sample) -> None:
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE batch_id = :id AND status = 'F'")


def hold(batch: Sample) -> None:
    pause(batch.databases, batch.id)
    resume(batch.databases, batch.id)


def lose_a_file(batch: Sample) -> None:
    files = sorted(batch.folder.iterdir())
    if len(files) > 1:
        files[0].unlink()
    reprocess(batch.databases, batch.id, Mode.failed, quiet, rescan=True)


def put_away_and_back(batch: Sample) -> None:
    batch.knowledge(ANSWER)
    restore_file(batch.databases, archive(batch.databases, batch.id, quiet, quiet).path)


ACTIONS = (
    lambda batch: batch.knowledge(ANSWER),
    answer_late,
    hold,
    lose_a_file,
    lambda batch: reprocess(batch.databases, batch.id, Mode.all, quiet),
    lambda batch: cancel(batch.databases, batch.id),
    lambda batch: archive(batch.databases, batch.id, quiet, quiet),
    put_away_and_back,
)


def live(databases: Databases, base: Path, number: int, until: float) -> int:
    """Batches, one after the other, each with some of what people and processors do."""
    chance, lives = random.Random(number), 0
    while time.monotonic() < until:
        lives += 1
        batch = sample_batch(
            databases, base, documents=chance.choice([2, 20, 60]), name=f"batch {number} {lives}"
        )
        batch.stage()
        for action in chance.choices(ACTIONS, k=4):
            # Not everything can be done to every batch.
            with suppress(BatchStateError):
                action(batch)
    return lives


def tick(databases: Databases, until: float) -> None:
    """What the daemon does, without a pause."""
    while time.monotonic() < until:
        for number in poll(databases).reports:
            with suppress(BatchStateError):
                write_report(databases, number)


@pytest.mark.slow
def test_an_audit_beside_a_running_pipeline_reports_nothing(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SECONDS_TO_RECHECK", 1.0)
    until = time.monotonic() + SECONDS
    findings: list[audit.AuditFinding] = []
    with ThreadPoolExecutor(3) as others:
        lives = [others.submit(live, databases, tmp_path, number, until) for number in range(2)]
        ticks = others.submit(tick, databases, until)
        while time.monotonic() < until:
            findings += audit.audit_installation(databases, quiet, every_document=True)
        ticks.result()
        assert all(life.result() > 3 for life in lives)
    assert findings == []
    poll(databases)
    poll(databases)
    assert list(audit.audit_installation(databases, quiet, every_document=True)) == []
