"""Archiving and restoring, killed by SIGKILL before every statement and every step on the disk."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline_tests.batches.archiving.archives import (
    BatchOf,
    archive_batch,
    audit,
    done,
    empty_installation,
    holdings,
    is_marked_archived,
    quiet,
    restore_batch,
)
from doceval_pipeline_tests.conftest import Sample, write_old

pytestmark = pytest.mark.slow
# What an interrupted call may leave until it is asked for again.
UNTIL_REPEATED = "the rows of every archived batch are removed from both databases"


class Steps:
    """Counts the steps of a process and kills it before one of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def step(self, *_: object, **__: object) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **options: Any) -> Any:
            self.step()
            return call(*arguments, **options)

        return stepped


def killed_before(step: int, databases: Databases, act: Callable[[], object]) -> bool:
    """Do something in a process that is killed before its `step`th step; False if it ends before."""
    child = os.fork()
    if not child:
        # Nothing of this process may end in the child, neither its connections nor its tests.
        ended = 1
        try:
            steps = Steps(step)
            for engine in (databases.doc_eval, databases.knowledge):
                engine.dispose(close=False)
            event.listen(Engine, "before_cursor_execute", steps.step)
            event.listen(Engine, "commit", steps.step)
            for name in ("fsync", "replace", "unlink"):
                setattr(os, name, steps.before(getattr(os, name)))
            act()
            ended = 0
        finally:
            os._exit(ended)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


ROWS = "SELECT r::text FROM llm_responses r WHERE batch_id = :id ORDER BY id"


def nothing_is_lost(batch: Sample, rows: list[Any]) -> None:
    """After a kill, either the rows are all there or the archive is; and the audit knows what to do."""
    left = batch.knowledge(ROWS)
    assert left == rows or (left == [] and is_marked_archived(batch))
    assert {invariant for _, invariant in audit(batch)} <= {UNTIL_REPEATED}
    assert poll(batch.databases).reports == {}


@pytest.fixture
def batch(batch_of: BatchOf) -> Sample:
    """A small batch that is done, beside another one that shares a content with it."""
    mine, other = batch_of(documents=2, connections=1, prompts=1), batch_of(documents=0, name="other")
    write_old(other.folder / "twin", (mine.folder / "001.txt").read_text())
    done(other)
    return done(mine)


def test_an_archive_that_is_killed_anywhere_can_be_repeated(batch: Sample) -> None:
    whole, rows = holdings(batch), batch.knowledge(ROWS)
    step = 0
    while True:
        step += 1
        killed = killed_before(step, batch.databases, lambda: archive_batch(batch))
        nothing_is_lost(batch, rows)
        archived = archive_batch(batch)
        assert audit(batch) == []
        assert not list(archived.path.parent.glob(f".{batch.key}*")), "what was left partial_file is gone"
        restore_batch(batch, archived)
        assert holdings(batch) == whole
        if not killed:
            break
    assert step > 40


def test_a_restore_that_is_killed_anywhere_can_be_repeated(batch: Sample) -> None:
    whole, rows = holdings(batch), batch.knowledge(ROWS)
    step = 0
    while True:
        step += 1
        archived = archive_batch(batch)
        killed = killed_before(
            step, batch.databases, lambda archived=archived: restore_batch(batch, archived)
        )
        nothing_is_lost(batch, rows)
        if is_marked_archived(batch):
            restore_batch(batch, archived)
        assert holdings(batch) == whole
        assert audit(batch) == []
        if not killed:
            break
    assert step > 30


def test_a_restore_that_is_killed_anywhere_can_be_put_away_again(batch: Sample) -> None:
    whole = holdings(batch)
    step, killed = 0, True
    while killed:
        step += 3
        archived = archive_batch(batch)
        killed = killed_before(
            step, batch.databases, lambda archived=archived: restore_batch(batch, archived)
        )
        again = archive_batch(batch)
        assert audit(batch) == []
        restore_batch(batch, again)
        assert holdings(batch) == whole


def test_a_restore_elsewhere_that_is_killed_anywhere_can_be_repeated(batch: Sample) -> None:
    rows, number = batch.knowledge(ROWS), batch.id
    archived = archive_batch(batch)
    step, killed = 0, True
    while killed:
        step += 2
        empty_installation(batch)
        killed = killed_before(step, batch.databases, lambda: restore_batch(batch, archived))
        assert {v.invariant for v in audit_installation(batch.databases, quiet, every_document=True)} <= {
            UNTIL_REPEATED
        }
        known = batch.doc_eval("SELECT archived_at IS NULL FROM batches WHERE id = :id")
        if known != [(True,)]:
            restore_batch(batch, archived)
        assert batch.knowledge(ROWS) == rows
        assert audit(batch) == []
    assert batch.id == number
    assert step > 40
