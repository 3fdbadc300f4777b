"""Compares two batches over the documents that both have, or two connections or prompts of one batch.

Here it is read from both databases and aligned; what is said of it is the business of `reports`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.atomic_file import atomic_file_or_stdout
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.results.file_names import Names
from doceval_pipeline.batches.results.insights import changed_settings
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, find_batch
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.errors import BatchStateError, ComparisonError
from doceval_pipeline.knowledge.scores import Scores, State, are_same_results, read_scores
from doceval_pipeline.names import normal
from doceval_pipeline.reports.comparison import (
    AlignedColumn,
    CellStates,
    Comparison,
    Side,
    compare_sides,
    moved_documents,
)
from doceval_pipeline.reports.comparison_page import render_comparison

Key = tuple[int, int]


class Kind(StrEnum):
    """What two sides of one batch differ in."""

    CONNECTION = "connection"
    PROMPT = "prompt"


@dataclass(frozen=True)
class _Results:
    """A batch with its sealed configuration, and its scores."""

    batch: BatchRecord
    config: Mapping[str, Any]
    scores: Scores

    def ids(self, kind: Kind) -> dict[int, str]:
        """The names of its connections or prompts."""
        return {item["id"]: item["name"] for item in self.config[f"{kind}s"]}

    def names(self, key: Key) -> tuple[str, str]:
        """How a column is called: by its connection and its prompt."""
        connection, prompt = key
        return (
            self.ids(Kind.CONNECTION).get(connection, f"connection {connection}"),
            self.ids(Kind.PROMPT).get(prompt, f"prompt {prompt}"),
        )

    def called(self, key: Key) -> tuple[str, str]:
        """The names of a column, to be compared with those of another batch."""
        connection, prompt = self.names(key)
        return normal(connection), normal(prompt)


@dataclass(frozen=True)
class _Half:
    """One side: its results, and its columns in the order in which both sides are compared."""

    name: str
    results: _Results
    keys: Sequence[Key]
    unmatched: tuple[tuple[str, str], ...] = ()


def compare_batches(databases: Databases, first: str, second: str, threshold: float) -> Comparison:
    """Compare two batches over the documents and columns that both have.

    Parameters
    ----------
    first, second
        A number, partition key or name.
    threshold
        A score of it or more is good, 0 to 100.

    Raises
    ------
    UnknownBatch, BatchStateError, ComparisonError
        BatchStateError where one of them is archived or not sealed; ComparisonError where they share nothing.
    """
    records = [find_batch(databases.doc_eval, wanted) for wanted in (first, second)]
    if records[0].id == records[1].id:
        raise ComparisonError(
            f"{records[0].key} is compared with itself: name two batches, or two of its connections or "
            "prompts with --connections or --prompts"
        )
    one, other = _read(databases, records)
    pairs = _matched(one, other)
    if not pairs:
        raise ComparisonError(
            f"{one.batch.key} and {other.batch.key} have no connection and prompt in common: compare batches "
            "with the same ones, or that are called the same"
        )
    halves = [
        _Half(r.batch.name, r, [p[side] for p in pairs], _unmatched(r, {p[side] for p in pairs}))
        for side, r in enumerate((one, other))
    ]
    return _compare(databases, halves, None, threshold)


def compare_in_batch(
    databases: Databases, batch: str, kind: Kind, names: tuple[str, str], threshold: float
) -> Comparison:
    """Compare two connections of a batch under each of its prompts, or two prompts under each connection.

    Raises
    ------
    UnknownBatch, BatchStateError, ComparisonError
        As `compare_batches`; ComparisonError also where the batch has no connection or prompt of that name.
    """
    (results,) = _read(databases, [find_batch(databases.doc_eval, batch)])
    ids = [_id_of(results, kind, name) for name in names]
    if ids[0] == ids[1]:
        raise ComparisonError(f"{kind} {names[0]!r} is compared with itself: name two of them")
    others = results.ids(Kind.PROMPT if kind is Kind.CONNECTION else Kind.CONNECTION)
    halves = [
        _Half(name, results, [(id_, o) if kind is Kind.CONNECTION else (o, id_) for o in others])
        for name, id_ in zip(names, ids, strict=True)
    ]
    return _compare(databases, halves, kind, threshold)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison as a page, into a file or to standard output.

    Raises
    ------
    FileError
    """
    with atomic_file_or_stdout(path) as file:
        file.write(render_comparison(comparison).encode())


def _read(databases: Databases, records: Sequence[BatchRecord]) -> list[_Results]:
    # One snapshot, so that both sides are of one moment.
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with database_errors(), databases.doc_eval.connect() as doc_eval, repeatable.connect() as knowledge:
        found = [_results(doc_eval, knowledge, record) for record in records]
    with databases.doc_eval.connect() as doc_eval:
        # Not archived now means that the rows were all there when they were read.
        for record in records:
            batch_by_id(doc_eval, record.id).require_rows()
    return found


def _results(doc_eval: Connection, knowledge: Connection, batch: BatchRecord) -> _Results:
    batch.require_rows()
    sealed = read_snapshot(doc_eval, batch.id)
    if sealed is None:
        raise BatchStateError(
            f"{batch.key} has nothing to compare, it is {batch.status.value}: stage it first"
        )
    return _Results(batch, sealed.config, read_scores(knowledge, batch.id))


def _matched(one: _Results, other: _Results) -> list[tuple[Key, Key]]:
    """The columns that both have: by ids, and of what is left by the names of connection and prompt."""
    ours, theirs = one.scores.columns, other.scores.columns
    same = [(key, key) for key in ours if key in set(theirs)]
    rest = {other.called(key): key for key in theirs if key not in set(ours)}
    named = [
        (key, rest[one.called(key)]) for key in ours if key not in set(theirs) and one.called(key) in rest
    ]
    return sorted(same + named)


def _unmatched(results: _Results, matched: set[Key]) -> tuple[tuple[str, str], ...]:
    return tuple(results.names(key) for key in results.scores.columns if key not in matched)


def _id_of(results: _Results, kind: Kind, name: str) -> int:
    ids = {known: id_ for id_, known in results.ids(kind).items()}
    # A name as it is written comes before one that only reads alike.
    found = {normal(known): id_ for known, id_ in ids.items()} | ids
    id_ = found.get(name, found.get(normal(name)))
    if id_ is None:
        known = ", ".join(sorted(ids)) or "none"
        raise ComparisonError(f"{results.batch.key} has no {kind} {name!r}: it has {known}")
    return id_


def _compare(
    databases: Databases, halves: Sequence[_Half], kind: Kind | None, threshold: float
) -> Comparison:
    one, other = halves
    documents = np.intersect1d(one.results.scores.documents, other.results.scores.documents)
    if not documents.size:
        raise ComparisonError(f"{_both(halves)} share no document: compare batches over the same documents")
    columns = [_aligned(one, other, documents, place, kind) for place in range(len(one.keys))]
    sides = (_side(one, documents), _side(other, documents))
    with databases.doc_eval.connect() as doc_eval:
        names = Names(doc_eval, one.results.batch.id)
        names.know(moved_documents(documents, columns))
    found = compare_sides(sides, documents, columns, names.of_document, threshold)
    if found is None and all(column.first_cells.same_results == documents.size for column in columns):
        raise ComparisonError(
            f"{_both(halves)} share only reused results, so there is nothing to compare: ask again with "
            "doceval reprocess BATCH --all"
        )
    if found is None:
        raise ComparisonError(
            f"{_both(halves)} share {documents.size:,} documents, none of which has a score on both sides "
            f"({_reasons(columns)}): wait for results, or reprocess what failed"
        )
    return found


def _side(half: _Half, shared: NDArray[np.int64]) -> Side:
    scores = half.results.scores
    places = [scores.columns.index(key) for key in half.keys if key in scores.columns]
    return Side(
        name=half.name,
        partition_key=half.results.batch.key,
        documents=scores.documents.size - shared.size,
        columns=half.unmatched,
        cells=int(np.count_nonzero(scores.states[:, places] != State.ABSENT)),
        simulated=sum(scores.simulated[place] for place in places),
    )


def _aligned(
    one: _Half, other: _Half, documents: NDArray[np.int64], place: int, kind: Kind | None
) -> AlignedColumn:
    halves = [(half.results.scores, half.keys[place]) for half in (one, other)]
    same = are_same_results(*(_origins(scores, key, documents) for scores, key in halves))
    (first, first_cells), (second, second_cells) = (
        _column(scores, key, documents, same) for scores, key in halves
    )
    connection, prompt = one.results.names(one.keys[place])
    return AlignedColumn(
        connection=None if kind is Kind.CONNECTION else connection,
        prompt=None if kind is Kind.PROMPT else prompt,
        changed=() if kind else _changed(one, other, place),
        first=first,
        second=second,
        first_cells=first_cells,
        second_cells=second_cells,
    )


def _origins(scores: Scores, key: Key, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    if key not in scores.columns:
        return np.zeros(documents.size, np.int64)
    rows, place = np.searchsorted(scores.documents, documents), scores.columns.index(key)
    origins: NDArray[np.int64] = scores.origins[rows, place]
    return origins


def _column(
    scores: Scores, key: Key, documents: NDArray[np.int64], same: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], CellStates]:
    """The scores of a column and its cells by state; results that are `same` on both sides have no score."""
    if key not in scores.columns:
        return np.full(documents.size, np.nan), CellStates(0, 0, 0, 0, documents.size)
    rows, place = np.searchsorted(scores.documents, documents), scores.columns.index(key)
    counts = np.bincount(scores.states[rows, place][~same], minlength=len(State))
    states = (int(counts[state]) for state in State)
    cells = replace(CellStates(*states), same_results=int(np.count_nonzero(same)))
    return np.where(same, np.nan, scores.values[rows, place]), cells


def _changed(one: _Half, other: _Half, place: int) -> tuple[str, ...]:
    before, now = one.results.config, other.results.config
    return changed_settings(before, now, other.keys[place], one.keys[place])


def _both(halves: Sequence[_Half]) -> str:
    return " and ".join(half.name for half in halves)


def _reasons(columns: Sequence[AlignedColumn]) -> str:
    """Why cells have no score, counted over both sides."""
    states = [cells for column in columns for cells in (column.first_cells, column.second_cells)]
    counts = {
        "failed": sum(cells.failed for cells in states),
        "not done": sum(cells.open for cells in states),
        "without a score": sum(cells.without_score for cells in states),
        "not there": sum(cells.absent for cells in states),
        "reused on both sides": sum(cells.same_results for cells in states),
    }
    return ", ".join(f"{count:,} cells {why}" for why, count in counts.items() if count)
