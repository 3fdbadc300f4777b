"""Puts the series of a recurring evaluation together, writes its page, and knows which pages are out of date.

What it looks like is the business of `reports.series`; where scores drift is found in `series_drift`.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sqlalchemy import Connection

from doceval_pipeline.atomic_file import file_errors
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.results.insights import add_up_costs
from doceval_pipeline.batches.results.report_files import keep_page
from doceval_pipeline.batches.results.reporting import template_cache
from doceval_pipeline.batches.results.series.drift import BINS, Evidence, Scored, mark_drift
from doceval_pipeline.batches.results.series.findings import find_changes, state_of
from doceval_pipeline.doc_eval import series as recorded
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.labels import read_names
from doceval_pipeline.doc_eval.prices import prices_of_batches
from doceval_pipeline.doc_eval.recurring import RecurringRecord, find_recurring
from doceval_pipeline.knowledge import series as results
from doceval_pipeline.knowledge.reuse import MORE_MEMORY
from doceval_pipeline.knowledge.series import PartOfColumn, PointsOfColumn
from doceval_pipeline.knowledge.usage import TokensTaken
from doceval_pipeline.reports.insights import Column, Cost
from doceval_pipeline.reports.series import (
    Drift,
    Point,
    Series,
    SeriesOccurrence,
    render_series,
)


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
        for connection in (doc_eval, knowledge):
            connection.execute(MORE_MEMORY)
        occurrences = recorded.series_occurrences(doc_eval, record.id, recorded.OCCURRENCES_READ)
        total, made = recorded.count_occurrences(doc_eval, record.id)
        done = [o.batch_id for o in occurrences if o.has_results and o.batch_id is not None]
        figures = _figures(doc_eval, knowledge, done)
        drifts = _drifts(knowledge, occurrences, made)
        changes = find_changes(
            doc_eval, knowledge, done, {o.batch_id: o for o in occurrences if o.batch_id is not None}
        )
        columns = sorted({c for own in figures.parts.values() for c in own})
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


@dataclass(frozen=True)
class _Figures:
    """By batch: what came back for each column, and costs."""

    parts: Mapping[int, Mapping[Column, Sequence[PartOfColumn]]]
    costs: Mapping[int, Sequence[Cost]]


def _figures(doc_eval: Connection, knowledge: Connection, batch_ids: Sequence[int]) -> _Figures:
    parts: dict[int, defaultdict[Column, list[PartOfColumn]]] = {id_: defaultdict(list) for id_ in batch_ids}
    tokens: dict[int, list[TokensTaken]] = {id_: [] for id_ in batch_ids}
    for part in results.add_up_series(knowledge, batch_ids):
        parts[part.batch_id][part.connection_id, part.prompt_id].append(part)
        if part.tokens is not None:
            tokens[part.batch_id].append(part.tokens)
    prices = prices_of_batches(doc_eval, batch_ids)
    return _Figures(parts, {id_: add_up_costs(taken, prices[id_]) for id_, taken in tokens.items()})


def _drifts(
    knowledge: Connection, occurrences: Sequence[recorded.RecordedOccurrence], made: int
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
    found: recorded.RecordedOccurrence, figures: _Figures, drifts: Mapping[Column, Drift]
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
    columns = figures.parts.get(found.batch_id, {})
    return _with_results(shown, found, columns, figures.costs.get(found.batch_id, ()), drifts)


def _with_results(
    shown: SeriesOccurrence,
    found: recorded.RecordedOccurrence,
    columns: Mapping[Column, Sequence[PartOfColumn]],
    costs: Sequence[Cost],
    drifts: Mapping[Column, Drift],
) -> SeriesOccurrence:
    own = [part for parts in columns.values() for part in parts]
    times = [part.seconds for part in own if part.seconds is not None and not part.reused]
    ran = None
    if found.started_at is not None and found.completed_at is not None:
        ran = max(0.0, (found.completed_at - found.started_at).total_seconds())
    return replace(
        shown,
        cells=sum(part.cells for part in own),
        succeeded=sum(part.succeeded for part in own),
        failed=sum(part.failed for part in own),
        reused=sum(part.cells for part in own if part.reused),
        simulated=sum(part.simulated for part in own),
        seconds=ran,
        processor_seconds=math.fsum(times) if times else None,
        costs=tuple(costs),
        points={column: _point(parts, drifts.get(column)) for column, parts in columns.items()},
    )


def _point(parts: Sequence[PartOfColumn], drift: Drift | None) -> Point:
    scored = sum(part.scored for part in parts)
    return Point(
        cells=sum(part.cells for part in parts),
        failed=sum(part.failed for part in parts),
        reused=sum(part.cells for part in parts if part.reused),
        scored=scored,
        mean=math.fsum(part.scores for part in parts) / scored if scored else None,
        drift=drift,
    )
