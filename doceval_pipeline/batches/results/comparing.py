"""Reads and aligns the scores of two batches, or of two connections or prompts of one batch.

`reports.comparison` computes the comparison from them, and words it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.atomic_file import atomic_file_or_stdout
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.results.clusters import cluster_numbers
from doceval_pipeline.batches.results.costs import column_usage
from doceval_pipeline.batches.results.file_names import FileNames
from doceval_pipeline.batches.results.insights import changed_settings
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, find_batch
from doceval_pipeline.doc_eval.criteria import read_thresholds
from doceval_pipeline.doc_eval.history import prices_of_batch
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.columns import Column, Labels
from doceval_pipeline.domain.score_changes import THRESHOLD, Dimension
from doceval_pipeline.domain.scores import Scores, ScoreState, ScoreStateCounts, are_same_results
from doceval_pipeline.domain.usage import ColumnUsage
from doceval_pipeline.errors import BatchStateError, ComparisonError
from doceval_pipeline.knowledge.scores import read_current_results
from doceval_pipeline.names import normal
from doceval_pipeline.reports.comparison import (
    AlignedColumn,
    ComparedSide,
    Comparison,
    compare_sides,
    named_documents,
    render_comparison,
)
from doceval_pipeline.reports.comparison_words import SideUsage
from doceval_pipeline.reports.labels import CONNECTION_WORDS, Words, connection_words


@dataclass(frozen=True)
class _Results:
    """A batch with its sealed configuration, its scores and what they used."""

    batch: BatchRecord
    config: Mapping[str, Any]
    scores: Scores
    usage: Mapping[Column, ColumnUsage]

    def names(self, dimension: Dimension) -> dict[int, str]:
        """The names of its connections or prompts, by id."""
        return {item["id"]: item["name"] for item in self.config[f"{dimension}s"]}

    def column_names(self, column: Column) -> tuple[str, str]:
        """The names of a column's connection and prompt."""
        labels = Labels(self.names(Dimension.CONNECTION), self.names(Dimension.PROMPT))
        connection, prompt = column
        return labels.connection(connection), labels.prompt(prompt)

    def normal_names(self, column: Column) -> tuple[str, str]:
        """The names of a column in a form that can be matched with another batch's."""
        connection, prompt = self.column_names(column)
        return normal(connection), normal(prompt)

    def side_usage(self, column: Column) -> SideUsage:
        """What all evaluations of a column used, shared with the other side or not."""
        counts = ScoreStateCounts.of(self.scores.column_states(column))
        usage = self.usage.get(column, ColumnUsage())
        finished = counts.scored + counts.without_score + counts.failed
        # Only reused results are finished without being in the usage.
        return SideUsage(usage, failed=counts.failed, reused=max(0, finished - usage.cells))


@dataclass(frozen=True)
class _SelectedSide:
    """One side: its results, and its columns in the order in which they are compared."""

    name: str
    results: _Results
    columns: Sequence[Column]
    unmatched: tuple[tuple[str, str], ...] = ()


def compare_batches(
    databases: Databases, first: str, second: str, threshold: float | None = None
) -> Comparison:
    """The comparison of two batches over the documents and columns that both have.

    Parameters
    ----------
    first, second
        The number, partition key or name of a batch.
    threshold
        A score of it or more is good, 0 to 100; None for the threshold of each prompt, or else
        `THRESHOLD`.

    Raises
    ------
    UnknownBatch, BatchStateError, ComparisonError
        BatchStateError if one of them is archived or not sealed; ComparisonError if they share nothing.
    """
    records = [find_batch(databases.doc_eval, batch) for batch in (first, second)]
    if records[0].id == records[1].id:
        raise ComparisonError(
            f"{records[0].key} cannot be compared with itself: name two batches, or two of its connections "
            "or prompts with --connections or --prompts"
        )
    one, other = _read(databases, records)
    pairs = _matched(one, other)
    if not pairs:
        raise ComparisonError(
            f"{one.batch.key} and {other.batch.key} share no connection and prompt: compare batches whose "
            "connections and prompts are the same or have the same names"
        )
    ours, theirs = zip(*pairs, strict=True)
    sides = [
        _SelectedSide(results.batch.name, results, columns, _unmatched(results, columns))
        for results, columns in ((one, ours), (other, theirs))
    ]
    return _compare(databases, sides, Dimension.TIME, threshold)


def compare_in_batch(
    databases: Databases,
    batch: str,
    dimension: Dimension,
    names: tuple[str, str],
    threshold: float | None = None,
) -> Comparison:
    """The comparison of two connections of a batch under each prompt, or two prompts under each connection.

    Raises
    ------
    UnknownBatch, BatchStateError, ComparisonError
        As in `compare_batches`; ComparisonError also if the batch has no connection or prompt of that name.
    """
    (results,) = _read(databases, [find_batch(databases.doc_eval, batch)])
    ids = [_id_of(results, dimension, name) for name in names]
    if ids[0] == ids[1]:
        raise ComparisonError(
            f"{dimension} {names[0]!r} cannot be compared with itself: name two different {dimension}s"
        )
    is_connection = dimension is Dimension.CONNECTION
    others = results.names(Dimension.PROMPT if is_connection else Dimension.CONNECTION)
    sides = [
        _SelectedSide(name, results, [(id_, other) if is_connection else (other, id_) for other in others])
        for name, id_ in zip(names, ids, strict=True)
    ]
    return _compare(databases, sides, dimension, threshold)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison as an HTML page into a file or to standard output.

    Raises
    ------
    FileError
    """
    with atomic_file_or_stdout(path) as file:
        file.write(render_comparison(comparison).encode())


def _read(databases: Databases, records: Sequence[BatchRecord]) -> list[_Results]:
    # One transaction snapshot, so that both sides are of the same moment.
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with database_errors(), databases.doc_eval.connect() as doc_eval, repeatable.connect() as knowledge:
        results = [_results(doc_eval, knowledge, record) for record in records]
    with databases.doc_eval.connect() as doc_eval:
        # If they are not archived now, all rows existed when they were read.
        for record in records:
            batch_by_id(doc_eval, record.id).require_rows()
    return results


def _results(doc_eval: Connection, knowledge: Connection, batch: BatchRecord) -> _Results:
    batch.require_rows()
    sealed = read_snapshot(doc_eval, batch.id)
    if sealed is None:
        raise BatchStateError(
            f"{batch.key} has no results to compare because it is {batch.status.value}: stage it first"
        )
    results = read_current_results(knowledge, batch.id)
    used = column_usage(results.tokens, results.times, prices_of_batch(doc_eval, batch.id))
    return _Results(batch, sealed.config, results.scores, used)


def _matched(one: _Results, other: _Results) -> list[tuple[Column, Column]]:
    """The columns that both have: by ids, and the rest by the names of connection and prompt."""
    ours, theirs = one.scores.columns, other.scores.columns
    same = [(column, column) for column in ours if column in set(theirs)]
    rest = {other.normal_names(column): column for column in theirs if column not in set(ours)}
    named = [
        (column, rest[name])
        for column in ours
        if column not in set(theirs) and (name := one.normal_names(column)) in rest
    ]
    return sorted(same + named)


def _unmatched(results: _Results, matched: Collection[Column]) -> tuple[tuple[str, str], ...]:
    return tuple(results.column_names(column) for column in results.scores.columns if column not in matched)


def _id_of(results: _Results, dimension: Dimension, name: str) -> int:
    ids = {known: id_ for id_, known in results.names(dimension).items()}
    # An exact name takes precedence over one that is equal only after normalization.
    by_name = {normal(known): id_ for known, id_ in ids.items()} | ids
    id_ = by_name.get(name, by_name.get(normal(name)))
    if id_ is None:
        known = ", ".join(sorted(ids)) or "none"
        raise ComparisonError(f"{results.batch.key} has no {dimension} {name!r}: choose one of {known}")
    return id_


def _compare(
    databases: Databases, sides: Sequence[_SelectedSide], dimension: Dimension, threshold: float | None
) -> Comparison:
    one, other = sides
    documents = np.intersect1d(one.results.scores.documents, other.results.scores.documents)
    if not documents.size:
        raise ComparisonError(f"{_both(sides)} share no document: compare batches of the same documents")
    with databases.doc_eval.connect() as doc_eval:
        thresholds = {} if threshold is not None else read_thresholds(doc_eval, _prompts(sides))
        columns = [
            replace(_aligned(one, other, documents, place, dimension), threshold=good)
            for place, good in enumerate(_thresholds(one, other, thresholds))
        ]
        names = FileNames(doc_eval, one.results.batch.id)
        names.load(named_documents(documents, columns))
        clusters = cluster_numbers(doc_eval, {side.results.batch.id for side in sides}, documents)
    comparison = compare_sides(
        (_compared_side(one, documents), _compared_side(other, documents)),
        documents,
        columns,
        names.of_document,
        _overall_threshold(columns) if threshold is None else threshold,
        dimension=dimension,
        model_word=_words(sides).one,
        clusters=clusters,
    )
    return comparison or _nothing_to_compare(sides, documents.size, columns)


def _nothing_to_compare(
    sides: Sequence[_SelectedSide], documents: int, columns: Sequence[AlignedColumn]
) -> NoReturn:
    if all(column.first_cells.same_results == documents for column in columns):
        raise ComparisonError(
            f"{_both(sides)} share only reused results, so there is nothing to compare: evaluate one of "
            "them again with doceval reprocess BATCH --all"
        )
    raise ComparisonError(
        f"{_both(sides)} share {documents:,} documents, but none has a score on both sides "
        f"({_reasons(columns)}): wait for results, or reprocess failed evaluations"
    )


def _prompts(sides: Sequence[_SelectedSide]) -> list[int]:
    return sorted({prompt for side in sides for _, prompt in side.columns})


def _thresholds(
    one: _SelectedSide, other: _SelectedSide, by_prompt: Mapping[int, float]
) -> list[float | None]:
    """The threshold of each column: that of its prompt, or None where the sides differ in it or have none."""
    pairs = [
        [by_prompt.get(prompt) for _, prompt in pair] for pair in zip(one.columns, other.columns, strict=True)
    ]
    return [first if first == second else None for first, second in pairs]


def _overall_threshold(columns: Sequence[AlignedColumn]) -> float:
    """The threshold that all columns have, or else `THRESHOLD`."""
    thresholds = {column.threshold for column in columns}
    common = thresholds.pop() if len(thresholds) == 1 else None
    return THRESHOLD if common is None else common


def _words(sides: Sequence[_SelectedSide]) -> Words:
    """The words for a connection of either side."""
    both = {connection_words(side.results.config) for side in sides}
    return both.pop() if len(both) == 1 else CONNECTION_WORDS


def _compared_side(side: _SelectedSide, shared: NDArray[np.int64]) -> ComparedSide:
    scores = side.results.scores
    places = [scores.columns.index(column) for column in side.columns if column in scores.columns]
    return ComparedSide(
        name=side.name,
        partition_key=side.results.batch.key,
        documents=scores.documents.size - shared.size,
        columns=side.unmatched,
        cells=int(np.count_nonzero(scores.states[:, places] != ScoreState.ABSENT)),
        simulated=sum(scores.simulated[place] for place in places),
    )


def _aligned(
    one: _SelectedSide,
    other: _SelectedSide,
    documents: NDArray[np.int64],
    place: int,
    dimension: Dimension,
) -> AlignedColumn:
    ours, theirs = one.columns[place], other.columns[place]
    our_rows = np.searchsorted(one.results.scores.documents, documents)
    their_rows = np.searchsorted(other.results.scores.documents, documents)
    same = are_same_results(
        one.results.scores.column_origins(ours)[our_rows],
        other.results.scores.column_origins(theirs)[their_rows],
    )
    first, first_cells = _compared(one.results.scores, ours, our_rows, same)
    second, second_cells = _compared(other.results.scores, theirs, their_rows, same)
    connection, prompt = one.results.column_names(ours)
    return AlignedColumn(
        connection=None if dimension is Dimension.CONNECTION else connection,
        prompt=None if dimension is Dimension.PROMPT else prompt,
        changed=_changed(one, other, place) if dimension is Dimension.TIME else (),
        first=first,
        second=second,
        first_cells=first_cells,
        second_cells=second_cells,
        first_usage=one.results.side_usage(ours),
        second_usage=other.results.side_usage(theirs),
    )


def _compared(
    scores: Scores, column: Column, rows: NDArray[np.int64], same: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], ScoreStateCounts]:
    """The scores of a column and its counts by state; results that are the `same` on both sides have none."""
    counts = ScoreStateCounts.of(scores.column_states(column)[rows][~same], int(np.count_nonzero(same)))
    return np.where(same, np.nan, scores.column(column)[rows]), counts


def _changed(one: _SelectedSide, other: _SelectedSide, place: int) -> tuple[str, ...]:
    before, now = one.results.config, other.results.config
    return changed_settings(before, now, other.columns[place], one.columns[place])


def _both(sides: Sequence[_SelectedSide]) -> str:
    return " and ".join(side.name for side in sides)


def _reasons(columns: Sequence[AlignedColumn]) -> str:
    """Why evaluations have no score, counted over both sides."""
    states = [cells for column in columns for cells in (column.first_cells, column.second_cells)]
    counts = {
        "failed": sum(cells.failed for cells in states),
        "not done": sum(cells.open for cells in states),
        "without a score": sum(cells.without_score for cells in states),
        "missing": sum(cells.absent for cells in states),
        "reused on both sides": sum(cells.same_results for cells in states),
    }
    return ", ".join(f"{count:,} evaluations {why}" for why, count in counts.items() if count)
