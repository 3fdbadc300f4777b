"""Texts for the sensor and the runs of recurring evaluations: the next and the last occurrence. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime

from doceval_pipeline.defs.naming import shown_name
from doceval_pipeline.doc_eval.batches import BatchRecord, partition_key
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.domain.recurring import Occurrence, OccurrenceOutcome
from doceval_pipeline.reports.sanitize import visible_name

# Sentences of each kind in a tick.
MOST_SHOWN = 20


def overview(
    records: Sequence[RecurringRecord], paused: Sequence[BatchRecord], problems: Sequence[str]
) -> str:
    """The next and the last occurrence of each recurring evaluation, after what needs attention.

    Parameters
    ----------
    paused
        Paused batches; only held ones are shown.
    problems
        Why folders could not be polled.
    """
    if not records:
        return "no recurring evaluation is defined"
    held = [f"{batch.key} is held: {batch.held_reason}" for batch in paused if batch.held_reason is not None]
    soonest = sorted(records, key=lambda record: (record.next_at is None, record.next_at, record.name))
    more = len(records) - MOST_SHOWN
    sentences = [*problems[:MOST_SHOWN], *held[:MOST_SHOWN], *map(_times, soonest[:MOST_SHOWN])]
    return "; ".join(
        [*map(visible_name, sentences), *([f"{more:,} more: run doceval recurring list"] if more > 0 else [])]
    )


def sentence(made: Occurrence) -> str:
    """The result of an occurrence, in one line."""
    if made.outcome is OccurrenceOutcome.MADE and made.batch_id is not None:
        return f"{partition_key(made.batch_id)}: {made.files.sentence}"
    if made.outcome is OccurrenceOutcome.SKIPPED:
        return f"no batch: {made.reason} ({made.files.sentence})"
    return f"no batch: {made.reason}"


def _times(record: RecurringRecord) -> str:
    if record.problem is not None:
        following = "cannot be used"
    elif record.paused_at is not None:
        following = "paused"
    elif record.definition.on_arrival:
        following = "on arrival"
    else:
        following = "never again" if record.next_at is None else f"next {_minute(record.next_at)}"
    return f"{shown_name(record.name)}: {following}, last {_last(record)}"


def _last(record: RecurringRecord) -> str:
    if record.newest_due_at is None:
        return "none yet"
    when = _minute(record.newest_due_at)
    if record.newest_batch_id is not None:
        return f"{when} ({partition_key(record.newest_batch_id)})"
    failed = "failed" if record.newest_outcome is OccurrenceOutcome.FAILED else "no batch"
    return f"{when} ({failed}: {record.newest_reason})"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
