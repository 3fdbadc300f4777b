"""Puts the leaderboard together: what all completed batches say of each connection and prompt.

What it looks like is the business of `reports.leaderboard`.
"""

import hashlib

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.baselines import count_other_batches, finished_batches
from doceval_pipeline.doc_eval.labels import read_labels
from doceval_pipeline.domain.columns import Labels
from doceval_pipeline.knowledge.leaderboard import ColumnResults, add_up_columns
from doceval_pipeline.reports.leaderboard import Leaderboard, LeaderboardRow

NOTHING = "none"
"""The digest of a leaderboard without batches."""


def gather_leaderboard(databases: Databases) -> Leaderboard:
    """The leaderboard over all batches that are completed and reported, and not cancelled or archived.

    Raises nothing where there are none: it has no rows then.
    """
    with databases.doc_eval.connect() as connection:
        finished = finished_batches(connection)
        others = count_other_batches(connection, finished)
    with databases.knowledge.connect() as connection:
        columns = add_up_columns(connection, list(finished))
    with databases.doc_eval.connect() as connection:
        names = read_labels(connection, {c.connection_id for c in columns}, {c.prompt_id for c in columns})
    rows = sorted((_row(column, names) for column in columns), key=_place)
    return Leaderboard(rows, len(finished), others, _digest(finished))


def leaderboard_digest(connection: Connection) -> str:
    """A digest of what a leaderboard would be made from now: the same results, the same digest.

    Parameters
    ----------
    connection
        To doc_eval.
    """
    return _digest(finished_batches(connection))


def _digest(finished: dict[int, str]) -> str:
    if not finished:
        return NOTHING
    said = "\n".join(f"{number}:{digest}" for number, digest in finished.items())
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _row(column: ColumnResults, names: Labels) -> LeaderboardRow:
    # Loads numpy, which other runs need not wait for.
    from doceval_pipeline.statistics.inference import estimate_of_sums

    scores = None
    if column.mean is not None and column.spread is not None:
        scores = estimate_of_sums(column.scored, column.mean, column.scored_documents, column.spread)
    return LeaderboardRow(
        connection=names.connection(column.connection_id),
        prompt=names.prompt(column.prompt_id),
        batches=column.batches,
        documents=column.documents,
        cells=column.cells,
        succeeded=column.succeeded,
        failed=column.failed,
        simulated=column.simulated,
        scores=scores,
        input_tokens=column.input_tokens,
        output_tokens=column.output_tokens,
        median_seconds=column.median_seconds,
        repeated=column.repeated,
    )


def _place(row: LeaderboardRow) -> tuple[bool, float, str, str]:
    mean = 0.0 if row.scores is None else row.scores.mean
    return row.scores is None, -mean, row.connection, row.prompt
