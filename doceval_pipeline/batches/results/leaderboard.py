"""Gathers the leaderboard, the results of all completed batches by prompt and connection; writes its page.

`reports.leaderboard` renders it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from doceval_pipeline.atomic_file import file_errors
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.results.report_files import keep_page
from doceval_pipeline.doc_eval.baselines import (
    count_other_batches,
    digest_of_finished,
    finished_batches,
)
from doceval_pipeline.doc_eval.clusters import document_clusters
from doceval_pipeline.doc_eval.history import prices_of_batches
from doceval_pipeline.doc_eval.labels import has_one_connection_per_model, read_labels
from doceval_pipeline.domain.columns import Labels
from doceval_pipeline.domain.findings import Difference
from doceval_pipeline.domain.leaderboard import Board, LeaderboardRow
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.knowledge.leaderboard import sum_columns
from doceval_pipeline.reports.leaderboard import Leaderboard

if TYPE_CHECKING:
    from doceval_pipeline.doc_eval.definitions.schema import Prices

DIGEST_CHARACTERS = 16
NOTHING = "none"
"""The digest of a leaderboard without batches."""


@dataclass(frozen=True)
class LeaderboardPage:
    """The page of the leaderboard on disk: its path, its content, and its size in bytes."""

    path: Path
    board: Leaderboard
    size: int


def write_leaderboard(databases: Databases) -> LeaderboardPage:
    """Write the current page of the leaderboard; the same results give the same file.

    Raises
    ------
    FileError, DatabaseError
    """
    # Jinja is loaded only to write a page.
    from doceval_pipeline.batches.results.reporting import template_cache
    from doceval_pipeline.reports.leaderboard_page import render_leaderboard_page

    with database_errors():
        board = gather_leaderboard(databases)
    with file_errors(databases.settings.cache):
        content = render_leaderboard_page(board, template_cache(databases)).encode()
    path = keep_page(databases, page_name(content), content)
    return LeaderboardPage(path, board, len(content))


def page_name(content: bytes) -> str:
    """The file name of a page of the leaderboard."""
    return f"leaderboard-{hashlib.sha256(content).hexdigest()[:16]}.html"


def gather_leaderboard(databases: Databases) -> Leaderboard:
    """The leaderboard over all batches that are completed and reported, and not cancelled or archived.

    Without such batches it has no boards.
    """
    # The digest is that of the batches that were found.
    repeatable = databases.doc_eval.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as connection:
        finished = finished_batches(connection)
        digest = leaderboard_digest(connection)
        others = count_other_batches(connection, finished)
        clusters = document_clusters(connection, finished)
    with databases.knowledge.connect() as connection:
        columns = sum_columns(connection, finished, clusters)
    with databases.doc_eval.connect() as connection:
        connections = {column.connection_id for column in columns}
        names = read_labels(connection, connections, {column.prompt_id for column in columns})
        prices = prices_of_batches(connection, finished)
        word = "model" if has_one_connection_per_model(connection, connections) else "connection"
    rows = [_complete(column, names, prices) for column in columns]
    return Leaderboard(_boards(rows), len(finished), others, digest, word)


def leaderboard_digest(connection: Connection) -> str:
    """A digest of the results that a leaderboard would have now.

    Parameters
    ----------
    connection
        To doc_eval.
    """
    digest = digest_of_finished(connection)
    return NOTHING if digest is None else digest[:DIGEST_CHARACTERS]


def _complete(
    row: LeaderboardRow, names: Labels, prices: Mapping[int, Mapping[int, "Prices"]]
) -> LeaderboardRow:
    """The row with its names, its mean score as an estimate, its costs, and its difference to the leader."""
    # Loads numpy, which other runs need not wait for.
    from doceval_pipeline.statistics.inference import difference_of_sums, estimate_of_sums

    scores = difference = None
    if row.mean is not None and row.spread is not None:
        scores = estimate_of_sums(row.scored, row.mean, row.scored_clusters, row.spread)
    if row.pairs is not None:
        pairs = row.pairs
        difference = difference_of_sums(pairs.documents, pairs.mean, pairs.clusters, pairs.spread)
    return replace(
        row,
        connection=names.connection(row.connection_id),
        prompt=names.prompt(row.prompt_id),
        scores=scores,
        difference=difference,
        costs=tuple(_costs(row, prices)),
    )


def _costs(row: LeaderboardRow, prices: Mapping[int, Mapping[int, "Prices"]]) -> Sequence[Cost]:
    """The cost of a row, each batch at its own prices."""
    from doceval_pipeline.batches.results.costs import add_up_costs

    by_currency: defaultdict[str, list[Cost]] = defaultdict(list)
    for batch_id, usage in row.usage:
        for cost in add_up_costs([usage], prices.get(batch_id, {})):
            by_currency[cost.currency].append(cost)
    priced = sum(cost.cells for costs in by_currency.values() for cost in costs)
    unpriced = sum(usage.cells for _, usage in row.usage) - priced
    return [
        Cost(sum(cost.amount for cost in costs), currency, sum(cost.cells for cost in costs), unpriced)
        for currency, costs in sorted(by_currency.items())
    ]


def _boards(rows: Sequence[LeaderboardRow]) -> list[Board]:
    """A board for each prompt, the real ones first; each p is corrected for all comparisons of all boards."""
    from doceval_pipeline.statistics.inference import corrected

    compared = [row for row in rows if row.difference is not None]
    adjusted = corrected([row.difference for row in compared if row.difference is not None])
    differences = {
        (row.is_simulated, row.prompt_id, row.connection_id): difference
        for row, difference in zip(compared, adjusted, strict=True)
    }
    ordered = sorted(rows, key=lambda row: (row.is_simulated, row.prompt, row.prompt_id))
    return [
        Board(prompt_id, prompt, is_simulated, _ranked(list(own), differences))
        for (is_simulated, prompt, prompt_id), own in groupby(
            ordered, lambda row: (row.is_simulated, row.prompt, row.prompt_id)
        )
    ]


def _ranked(
    rows: list[LeaderboardRow], differences: Mapping[tuple[bool, int, int], Difference]
) -> list[LeaderboardRow]:
    """The rows of a board in their order, the leader compared with the second one, the others with it."""
    ordered = sorted(rows, key=_place)
    ranked = [row for row in ordered if row.scores is not None]
    without_scores = ordered[len(ranked) :]
    if len(ranked) < 2:
        return ordered

    def found(row: LeaderboardRow) -> Difference | None:
        return differences.get((row.is_simulated, row.prompt_id, row.connection_id))

    leader, second, lead = ranked[0], ranked[1], found(ranked[1])
    return [
        replace(leader, difference=None if lead is None else lead.turned(), against=second.connection_id),
        *(replace(row, difference=found(row), against=leader.connection_id) for row in ranked[1:]),
        *without_scores,
    ]


def _place(row: LeaderboardRow) -> tuple[bool, float, bool, str, int]:
    mean = 0.0 if row.scores is None else row.scores.mean
    return row.scores is None, -mean, not row.is_leader, row.connection, row.connection_id
