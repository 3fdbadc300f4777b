"""Puts the series of a recurring evaluation together, writes its page, and knows which pages are out of date.

What it looks like is the business of `reports.series`; where scores drift is found in `series_drift`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.insights import add_up_costs
from doceval_pipeline.batches.report_files import keep_page
from doceval_pipeline.batches.reporting import template_cache
from doceval_pipeline.batches.series_drift import BINS, Evidence, Scored, mark_drift
from doceval_pipeline.batches.whole_file import file_errors
from doceval_pipeline.doc_eval import series as recorded
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.prices import prices_of_batches
from doceval_pipeline.doc_eval.recurring import Outcome, RecurringRecord, find_recurring
from doceval_pipeline.doc_eval.series import FileChange
from doceval_pipeline.doc_eval.standings import read_names
from doceval_pipeline.knowledge import series as results
from doceval_pipeline.knowledge.series import ColumnTotals, PointsOfColumn
from doceval_pipeline.reports.insights import Column, Cost
from doceval_pipeline.reports.series import (
    CHANGES_SHOWN,
    ChangedDocument,
    Changes,
    Drift,
    Point,
    Series,
    SeriesOccurrence,
    State,
    render_series,
)

OCCURRENCES_READ = 1_000
"""The newest so many occurrences are added up and compared; earlier ones are counted."""
CONTENTS_LOOKED_AT = 200
"""Of so many files whose content changed, the newest, scores are read."""


@dataclass(frozen=True)
class WrittenSeries:
    """The page of a series on disk: where, what it says, and its size in bytes."""

    path: Path
    series: Series
    size: int


def write_series(databases: Databases, name: str) -> WrittenSeries:
    """Write the page of a recurring evaluation as it is now; the same series gives the same file.

    Raises
    ------
    UnknownRecurring, FileError, DatabaseError
    """
    with database_errors():
        with databases.doc_eval.connect() as connection:
            record = find_recurring(connection, name)
        series = gather_series(databases, record)
        with file_errors(databases.settings.cache):
            content = render_series(series, template_cache(databases)).encode()
        path = keep_page(databases, page_name(record.id, content), content)
    return WrittenSeries(path, series, len(content))


def page_name(recurring_id: int, content: bytes) -> str:
    """The name of the file of a series' page; the name of the recurring evaluation is not in it."""
    return f"series-{recurring_id:06d}-{hashlib.sha256(content).hexdigest()[:16]}.html"


def gather_series(databases: Databases, record: RecurringRecord) -> Series:
    """What the occurrences of a recurring evaluation say, whatever became of each."""
    # One snapshot of the results, so that figures and marks are of the same ones.
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with databases.doc_eval.connect() as doc_eval, repeatable.connect() as knowledge:
        occurrences = recorded.series_occurrences(doc_eval, record.id, OCCURRENCES_READ)
        total, made = recorded.count_occurrences(doc_eval, record.id)
        done = [o.batch_id for o in occurrences if o.has_results and o.batch_id is not None]
        figures = _figures(doc_eval, knowledge, done)
        drifts = _drifts(knowledge, occurrences, made)
        changes = find_changes(
            doc_eval, knowledge, done, {o.batch_id: o for o in occurrences if o.batch_id is not None}
        )
        columns = sorted({c for own in figures.totals.values() for c in own})
        names = read_names(doc_eval, {c[0] for c in columns}, {c[1] for c in columns})
    shown = [_occurrence(o, figures, drifts.get(o.batch_id or 0, {})) for o in occurrences]
    digest = hashlib.sha256(repr((record.name, total, shown, changes)).encode()).hexdigest()
    return Series(
        name=record.name,
        timezone=record.definition.timezone,
        occurrences=shown,
        total=total,
        columns={c: (names.connection(c[0]), names.prompt(c[1])) for c in columns},
        changes=changes,
        digest=digest[:16],
    )


def find_changes(
    doc_eval: Connection,
    knowledge: Connection,
    batch_ids: Sequence[int],
    occurrences: Mapping[int, recorded.SeriesOccurrence],
    batch_id: int | None = None,
) -> Changes:
    """Documents whose score changed with their content.

    Parameters
    ----------
    batch_ids
        Those of the series with results, oldest first.
    occurrences
        The occurrences of these batches.
    batch_id
        Only what this one found changed.
    """
    files, contents = recorded.changed_files(doc_eval, batch_ids, CONTENTS_LOOKED_AT, batch_id)
    scores = results.scores_of_changes(
        knowledge, [(f.batch_before, f.stored_before, f.batch_id, f.stored) for f in files]
    )
    moved = [found for found in scores if found.before != found.after]
    several = len({file.file.folder for file in files}) > 1
    return Changes(
        documents=tuple(
            ChangedDocument(
                due_at=occurrences[files[found.place].batch_id].due_at,
                partition_key=partition_key(files[found.place].batch_id),
                file=_path(files[found.place], several),
                column=(found.connection_id, found.prompt_id),
                before=found.before,
                after=found.after,
                is_other_question=found.is_other_question,
            )
            for found in moved[:CHANGES_SHOWN]
        ),
        total=len(moved),
        same=len(scores) - len(moved),
        contents=contents,
        looked_at=len(files),
    )


def state_of(occurrence: recorded.SeriesOccurrence) -> tuple[State, str | None]:
    """What became of an occurrence, and why."""
    if occurrence.outcome is not Outcome.MADE:
        state = State.SKIPPED if occurrence.outcome is Outcome.SKIPPED else State.NOT_MADE
        return state, occurrence.reason
    if occurrence.archived_at is not None:
        return State.ARCHIVED, None
    if occurrence.cancelled_at is not None and occurrence.status is Status.FAILED:
        return State.CANCELLED, None
    if occurrence.status is Status.PAUSED:
        held = occurrence.held_reason
        return (State.PAUSED, None) if held is None else (State.HELD, held)
    if occurrence.status is Status.FAILED:
        return State.FAILED, "no evaluation succeeded"
    if occurrence.status is Status.FAILED_STAGING:
        return State.FAILED, "its staging failed"
    return (State.DONE if occurrence.status is Status.COMPLETED else State.OPEN), None


@dataclass(frozen=True)
class _Figures:
    """By batch: totals by column, and costs."""

    totals: Mapping[int, Mapping[Column, ColumnTotals]]
    costs: Mapping[int, Sequence[Cost]]


def _figures(doc_eval: Connection, knowledge: Connection, batch_ids: Sequence[int]) -> _Figures:
    totals: defaultdict[int, dict[Column, ColumnTotals]] = defaultdict(dict)
    for row in results.add_up_series(knowledge, batch_ids):
        totals[row.batch_id][row.connection_id, row.prompt_id] = row
    tokens = results.tokens_of_series(knowledge, batch_ids)
    prices = prices_of_batches(doc_eval, list(tokens))
    return _Figures(totals, {id_: add_up_costs(taken, prices[id_]) for id_, taken in tokens.items()})


def _drifts(
    knowledge: Connection, occurrences: Sequence[recorded.SeriesOccurrence], made: int
) -> dict[int, dict[Column, Drift]]:
    """What the comparison found, by batch; a batch whose staging or results are not done is in none."""
    batches = [o for o in occurrences if o.batch_id is not None]
    first = made - len(batches) + 1
    places = {
        o.batch_id: first + i for i, o in enumerate(batches) if o.has_results and o.batch_id is not None
    }
    evidence: defaultdict[int, dict[Column, Evidence]] = defaultdict(dict)
    points: defaultdict[tuple[int, Column], list[PointsOfColumn]] = defaultdict(list)
    for row in results.evidence_of_series(knowledge, list(places)):
        points[row.batch_id, (row.connection_id, row.prompt_id)].append(row)
    for (batch_id, column), rows in points.items():
        evidence[batch_id][column] = _evidence(rows)
    found = mark_drift([evidence[id_] for id_ in places], list(places.values()))
    return dict(zip(places, found, strict=True))


def _evidence(rows: Sequence[PointsOfColumn]) -> Evidence:
    asked, new = np.zeros(BINS), np.zeros(BINS)
    for row in rows:
        asked[row.points] += row.asked
        new[row.points] += row.new
    return Evidence(
        question=rows[0].question,
        asked=Scored(asked, sum(row.asked_total for row in rows)),
        new=Scored(new, sum(row.new_total for row in rows)),
        pairs=sum(row.pairs for row in rows),
        moved=sum(row.moved for row in rows),
        moved_squared=sum(row.moved_squared for row in rows),
    )


def _occurrence(
    found: recorded.SeriesOccurrence, figures: _Figures, drifts: Mapping[Column, Drift]
) -> SeriesOccurrence:
    state, reason = state_of(found)
    shown = SeriesOccurrence(
        due_at=found.due_at,
        state=state,
        reason=reason,
        partition_key=None if found.batch_id is None else partition_key(found.batch_id),
        batch=found.batch_name,
        files=(found.new_files, found.changed_files, found.unchanged_files, found.gone_files),
    )
    if not found.has_results or found.batch_id is None:
        return shown
    columns = figures.totals.get(found.batch_id, {})
    return _with_results(shown, found, columns, figures.costs.get(found.batch_id, ()), drifts)


def _with_results(
    shown: SeriesOccurrence,
    found: recorded.SeriesOccurrence,
    columns: Mapping[Column, ColumnTotals],
    costs: Sequence[Cost],
    drifts: Mapping[Column, Drift],
) -> SeriesOccurrence:
    own = columns.values()
    times = [row.seconds for row in own if row.seconds is not None]
    ran = None
    if found.started_at is not None and found.completed_at is not None:
        ran = max(0.0, (found.completed_at - found.started_at).total_seconds())
    return replace(
        shown,
        cells=sum(row.cells for row in own),
        succeeded=sum(row.succeeded for row in own),
        failed=sum(row.failed for row in own),
        reused=sum(row.reused for row in own),
        simulated=sum(row.simulated for row in own),
        seconds=ran,
        processor_seconds=sum(times) if times else None,
        costs=tuple(costs),
        points={
            column: Point(row.cells, row.failed, row.reused, row.scored, row.mean, drifts.get(column))
            for column, row in columns.items()
        },
    )


def _path(change: FileChange, with_folder: bool) -> str:
    folder = change.file.folder.rstrip("/")
    return f"{folder}/{change.file.path}" if with_folder else change.file.path
