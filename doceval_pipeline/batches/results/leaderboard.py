"""Gathers the leaderboard: the results of all completed batches by connection and prompt.

`reports.leaderboard` renders it.
"""

import hashlib
from dataclasses import replace

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.baselines import count_other_batches, finished_batches
from doceval_pipeline.doc_eval.labels import read_labels
from doceval_pipeline.domain.columns import Labels
from doceval_pipeline.domain.leaderboard import LeaderboardRow
from doceval_pipeline.knowledge.leaderboard import sum_columns
from doceval_pipeline.reports.leaderboard import Leaderboard

NOTHING = "none"
"""The digest of a leaderboard without batches."""


def gather_leaderboard(databases: Databases) -> Leaderboard:
    """The leaderboard over all batches that are completed and reported, and not cancelled or archived.

    Without such batches it has no rows.
    """
    with databases.doc_eval.connect() as connection:
        finished = finished_batches(connection)
        others = count_other_batches(connection, finished)
    with databases.knowledge.connect() as connection:
        columns = sum_columns(connection, list(finished))
    with databases.doc_eval.connect() as connection:
        names = read_labels(connection, {c.connection_id for c in columns}, {c.prompt_id for c in columns})
    rows = sorted((_complete(column, names) for column in columns), key=_place)
    return Leaderboard(rows, len(finished), others, _digest(finished))


def leaderboard_digest(connection: Connection) -> str:
    """A digest of the results that a leaderboard would have now.

    Parameters
    ----------
    connection
        To doc_eval.
    """
    return _digest(finished_batches(connection))


def _digest(finished: dict[int, str]) -> str:
    if not finished:
        return NOTHING
    results = "\n".join(f"{batch_id}:{digest}" for batch_id, digest in finished.items())
    return hashlib.sha256(results.encode()).hexdigest()[:16]


def _complete(row: LeaderboardRow, names: Labels) -> LeaderboardRow:
    """The row with its names, and with its mean score as an estimate."""
    # Loads numpy, which other runs need not wait for.
    from doceval_pipeline.statistics.inference import estimate_of_sums

    scores = None
    if row.mean is not None and row.spread is not None:
        scores = estimate_of_sums(row.scored, row.mean, row.scored_documents, row.spread)
    connection, prompt = names.connection(row.connection_id), names.prompt(row.prompt_id)
    return replace(row, connection=connection, prompt=prompt, scores=scores)


def _place(row: LeaderboardRow) -> tuple[bool, float, str, str]:
    mean = 0.0 if row.scores is None else row.scores.mean
    return row.scores is None, -mean, row.connection, row.prompt
