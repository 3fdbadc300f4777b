"""Gathers the series of a recurring evaluation, and writes its page.

`drift` marks where scores drift; `reports.series` renders the page.
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
from doceval_pipeline.batches.results.costs import add_up_costs
from doceval_pipeline.batches.results.report_files import keep_page
from doceval_pipeline.batches.results.reporting import template_cache
from doceval_pipeline.batches.results.series.drift import BINS, Evidence, ScoreHistogram, mark_drift
from doceval_pipeline.batches.results.series.findings import find_changes
from doceval_pipeline.doc_eval.history import prices_of_batches
from doceval_pipeline.doc_eval.labels import read_labels
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.doc_eval.recurring.series import OCCURRENCES_READ, count_occurrences, series_occurrences
from doceval_pipeline.doc_eval.recurring.stored import find_recurring
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.series import ColumnResult, ColumnSums, ScoreBin, SeriesDrift, SeriesOccurrence
from doceval_pipeline.domain.usage import Cost, TokenUsage
from doceval_pipeline.knowledge.reuse import MORE_MEMORY
from doceval_pipeline.knowledge.series import score_bins, sum_columns_of_batches
from doceval_pipeline.reports.series import Series, render_series


@dataclass(frozen=True)
class SeriesPage:
    """The page of a series on disk: its path, its content, and its size in bytes."""

    path: Path
    series: Series
    size: int


def write_series(databases: Databases, name: str) -> SeriesPage:
    """Write the current page of a recurring evaluation; the same series gives the same file.

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
    return SeriesPage(path, series, len(content))


def page_name(recurring_id: int, content: bytes) -> str:
    """The file name of a series' page, without the name of the recurring evaluation."""
    return f"series-{recurring_id:06d}-{hashlib.sha256(content).hexdigest()[:16]}.html"


def gather_series(databases: Databases, record: RecurringRecord) -> Series:
    """Gather all occurrences of a recurring evaluation, also those without results."""
    # One snapshot of the database, so that figures and marks are of the same results.
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with databases.doc_eval.connect() as doc_eval, repeatable.connect() as knowledge:
        for connection in (doc_eval, knowledge):
            connection.execute(MORE_MEMORY)
        occurrences = series_occurrences(doc_eval, record.id, OCCURRENCES_READ)
        total, made = count_occurrences(doc_eval, record.id)
        done = [o.batch_id for o in occurrences if o.has_results and o.batch_id is not None]
        figures = _figures(doc_eval, knowledge, done)
        drifts = _drifts(knowledge, occurrences, made)
        changes = find_changes(doc_eval, knowledge, done)
        columns = sorted({column for own in figures.columns.values() for column in own})
        names = read_labels(
            doc_eval, {connection for connection, _ in columns}, {prompt for _, prompt in columns}
        )
    complete = [_with_results(o, figures, drifts.get(o.batch_id or 0, {})) for o in occurrences]
    digest = hashlib.sha256(repr((record.name, total, complete, changes)).encode()).hexdigest()
    return Series(
        name=record.name,
        timezone=record.definition.timezone,
        occurrences=complete,
        total=total,
        columns={
            (connection, prompt): (names.connection(connection), names.prompt(prompt))
            for connection, prompt in columns
        },
        changes=changes,
        digest=digest[:16],
    )


@dataclass(frozen=True)
class _Figures:
    """The sums of each column and the costs, by batch."""

    columns: Mapping[int, Mapping[Column, Sequence[ColumnSums]]]
    costs: Mapping[int, Sequence[Cost]]


def _figures(doc_eval: Connection, knowledge: Connection, batch_ids: Sequence[int]) -> _Figures:
    columns: dict[int, defaultdict[Column, list[ColumnSums]]] = {id_: defaultdict(list) for id_ in batch_ids}
    tokens: dict[int, list[TokenUsage]] = {id_: [] for id_ in batch_ids}
    for part in sum_columns_of_batches(knowledge, batch_ids):
        columns[part.batch_id][part.connection_id, part.prompt_id].append(part)
        if part.tokens is not None:
            tokens[part.batch_id].append(part.tokens)
    prices = prices_of_batches(doc_eval, batch_ids)
    return _Figures(columns, {id_: add_up_costs(usage, prices[id_]) for id_, usage in tokens.items()})


def _drifts(
    knowledge: Connection, occurrences: Sequence[SeriesOccurrence], made: int
) -> dict[int, dict[Column, SeriesDrift]]:
    """The drift of each column, by batch with results."""
    batches = [o for o in occurrences if o.batch_id is not None]
    first = made - len(batches) + 1
    places = {
        o.batch_id: first + i for i, o in enumerate(batches) if o.has_results and o.batch_id is not None
    }
    evidence: defaultdict[int, dict[Column, Evidence]] = defaultdict(dict)
    bins: defaultdict[tuple[int, Column], list[ScoreBin]] = defaultdict(list)
    for score_bin in score_bins(knowledge, list(places)):
        column = (score_bin.connection_id, score_bin.prompt_id)
        bins[score_bin.batch_id, column].append(score_bin)
    for (batch_id, column), own in bins.items():
        evidence[batch_id][column] = _evidence(own)
    drifts = mark_drift([evidence[id_] for id_ in places], list(places.values()))
    return dict(zip(places, drifts, strict=True))


def _evidence(bins: Sequence[ScoreBin]) -> Evidence:
    asked, new = np.zeros(BINS), np.zeros(BINS)
    for own in bins:
        asked[own.points] += own.asked
        new[own.points] += own.new
    return Evidence(
        question=bins[0].question,
        asked=ScoreHistogram(asked, sum(own.asked_total for own in bins)),
        new=ScoreHistogram(new, sum(own.new_total for own in bins)),
        pairs=sum(own.pairs for own in bins),
        moved=sum(own.moved for own in bins),
        moved_squared=sum(own.moved_squared for own in bins),
    )


def _with_results(
    occurrence: SeriesOccurrence, figures: _Figures, drifts: Mapping[Column, SeriesDrift]
) -> SeriesOccurrence:
    """The occurrence with the figures of its batch, if it has results."""
    if not occurrence.has_results or occurrence.batch_id is None:
        return occurrence
    columns = figures.columns.get(occurrence.batch_id, {})
    sums = [part for parts in columns.values() for part in parts]
    times = [part.seconds for part in sums if part.seconds is not None and not part.reused]
    return replace(
        occurrence,
        cells=sum(part.cells for part in sums),
        succeeded=sum(part.succeeded for part in sums),
        failed=sum(part.failed for part in sums),
        reused=sum(part.cells for part in sums if part.reused),
        simulated=sum(part.simulated for part in sums),
        processor_seconds=math.fsum(times) if times else None,
        costs=tuple(figures.costs.get(occurrence.batch_id, ())),
        columns={column: _column_result(parts, drifts.get(column)) for column, parts in columns.items()},
    )


def _column_result(parts: Sequence[ColumnSums], drift: SeriesDrift | None) -> ColumnResult:
    scored = sum(part.scored for part in parts)
    return ColumnResult(
        cells=sum(part.cells for part in parts),
        failed=sum(part.failed for part in parts),
        reused=sum(part.cells for part in parts if part.reused),
        scored=scored,
        mean=math.fsum(part.scores for part in parts) / scored if scored else None,
        drift=drift,
    )
