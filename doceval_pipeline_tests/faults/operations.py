"""Operations on a batch while faults happen; each can be repeated until it succeeds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.batches.monitoring.completion import poll, recount_batches
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import (
    Mode,
    cancel,
    pause,
    queue_attempts,
    reprocess,
    resume,
)
from doceval_pipeline_tests.conftest import Sample, write_old
from doceval_pipeline_tests.faults.environment import ANSWER


@dataclass(frozen=True)
class Operation:
    """An operation on a batch, and the preparation it needs."""

    name: str
    prepare: Callable[[Sample], object]
    run: Callable[[Sample], object]


def _saved(_: Sample) -> None:
    """Needs no preparation."""


def _answered(batch: Sample) -> None:
    batch.stage()
    batch.knowledge(ANSWER)


def _completed(batch: Sample) -> None:
    _answered(batch)
    poll(batch.databases)


def _reported(batch: Sample) -> None:
    _completed(batch)
    write_report(batch.databases, batch.id)


def _touched(batch: Sample) -> None:
    """Reported; then one file is added, one is changed, and one is removed."""
    _reported(batch)
    write_old(batch.folder / "new.txt", "a document that came later")
    write_old(batch.folder / "001.txt", "other bytes than before")
    (batch.folder / "002.txt").unlink()


def _paused(batch: Sample) -> None:
    batch.stage()
    pause(batch.databases, batch.id)


def _look(batch: Sample) -> None:
    # As the sensor does it.
    with database_errors():
        poll(batch.databases)


def _recount(batch: Sample) -> None:
    with database_errors():
        recount_batches(batch.databases, [batch.id])


def _report(batch: Sample) -> None:
    write_report(batch.databases, batch.id)


def _again(batch: Sample, mode: Mode, rescan: bool = False) -> None:
    reprocess(batch.databases, batch.id, mode, lambda *_: None, rescan=rescan)


def _request(batch: Sample) -> None:
    # As the asset queue_rows does, and the retries of its run.
    queue_attempts(batch.databases, batch.id, Mode.failed, "a run")


STAGING = Operation("staging", _saved, Sample.stage)
POLLING = Operation("polling", _answered, _look)
REPORTING = Operation("reporting", _completed, _report)
OPERATIONS = (
    STAGING,
    POLLING,
    Operation("recounting", _answered, _recount),
    REPORTING,
    Operation("repairing", _reported, partial(_again, mode=Mode.missing)),
    Operation("reprocessing failed", _reported, partial(_again, mode=Mode.failed)),
    Operation("reprocessing all", _reported, partial(_again, mode=Mode.all)),
    Operation("requesting attempts", _reported, _request),
    Operation("rescanning", _touched, partial(_again, mode=Mode.missing, rescan=True)),
    Operation("pausing", Sample.stage, lambda batch: pause(batch.databases, batch.id)),
    Operation("resuming", _paused, lambda batch: resume(batch.databases, batch.id)),
    Operation("cancelling", Sample.stage, lambda batch: cancel(batch.databases, batch.id)),
)
