"""Reads all current results of a batch as a table of documents and columns.

A million results arrive as a few long arrays that numpy reads directly: no row becomes an object.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.scores import Scores, ScoreState
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql, valid_score_sql

# Scores are 0 to 100, so that one number holds either the score or, if negative, the state.
_SCORE_OR_STATE = f"""
    CASE WHEN {has_outcome_sql(Outcome.SUCCEEDED)}
         THEN coalesce(overall_score, -{ScoreState.WITHOUT_SCORE})
         WHEN {has_outcome_sql(Outcome.FAILED)} THEN -{ScoreState.FAILED}
         ELSE -{ScoreState.OPEN} END
"""
# A row id of another installation belongs to a different row here: negative, it matches none.
_ORIGIN = "CASE WHEN reused_batch_id = 0 THEN -reused_from ELSE coalesce(reused_from, id) END"
_COLUMNS = f"""
    COPY (
        SELECT connection_id, prompt_id, count(*) FILTER (WHERE {SIMULATED_SQL}),
               array_agg(document_id), array_agg({_SCORE_OR_STATE}), array_agg({_ORIGIN})
        FROM current_llm_responses WHERE batch_id = %s GROUP BY 1, 2 ORDER BY 1, 2
    ) TO STDOUT (FORMAT binary)
"""
_ATTEMPTS = text(f"""
    SELECT r.document_id, r.connection_id, r.prompt_id, {valid_score_sql("r.")} AS score
    FROM llm_responses r
    JOIN unnest(CAST(:documents AS bigint[]), CAST(:connections AS int[]), CAST(:prompts AS int[]))
        AS e(document_id, connection_id, prompt_id) USING (document_id, connection_id, prompt_id)
    WHERE r.batch_id = :batch_id AND r.reused_from IS NULL AND {valid_score_sql("r.")} IS NOT NULL
    ORDER BY 1, 2, 3, r.attempt
""")
# https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": a signature, flags and an empty
# extension; rows of a number of fields and the fields, each after its length; -1 at the end.
_HEADER_BYTES = 19
_ARRAY_HEADER_BYTES = 20


@dataclass(frozen=True, slots=True)
class _ColumnArrays:
    """One row of `_COLUMNS`; `scores_or_states` as in `_SCORE_OR_STATE`."""

    column: Column
    simulated: int
    documents: NDArray[np.int64]
    scores_or_states: NDArray[np.float64]
    origins: NDArray[np.int64]


def read_scores(connection: Connection, batch_id: int) -> Scores:
    """The current results of a batch, read in one statement."""
    columns = list(_read(connection, batch_id))
    ids = [column.documents for column in columns]
    documents = np.unique(np.concatenate(ids)) if ids else np.empty(0, np.int64)
    shape = (documents.size, len(columns))
    values, states = np.full(shape, np.nan), np.full(shape, ScoreState.ABSENT, np.uint8)
    origins = np.zeros(shape, np.int64)
    for place, column in enumerate(columns):
        rows = np.searchsorted(documents, column.documents)
        codes = column.scores_or_states
        values[rows, place] = np.where(codes < 0, np.nan, codes)
        states[rows, place] = np.where(codes < 0, -codes, ScoreState.SCORED)
        origins[rows, place] = column.origins
    return Scores(
        documents=documents,
        columns=tuple(column.column for column in columns),
        values=values,
        states=states,
        origins=origins,
        simulated=tuple(column.simulated for column in columns),
    )


def read_attempt_scores(
    connection: Connection, batch_id: int, evaluations: Sequence[tuple[int, int, int]]
) -> dict[tuple[int, int, int], list[float]]:
    """The scores of all successful attempts of evaluations, by document, connection and prompt.

    Earlier attempts count too; all of them asked the same question, which is sealed.
    """
    documents, connections, prompts = zip(*evaluations, strict=True) if evaluations else ((), (), ())
    parameters = {
        "batch_id": batch_id,
        "documents": arrays.of_numbers(documents),
        "connections": arrays.of_numbers(connections),
        "prompts": arrays.of_numbers(prompts),
    }
    scores: dict[tuple[int, int, int], list[float]] = {}
    for row in connection.execute(_ATTEMPTS, parameters):
        key = row.document_id, row.connection_id, row.prompt_id
        scores.setdefault(key, []).append(row.score)
    return scores


def _read(connection: Connection, batch_id: int) -> Iterator[_ColumnArrays]:
    stream = io.BytesIO()
    with closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(cursor.mogrify(_COLUMNS, (batch_id,)), stream)
    stream.seek(_HEADER_BYTES)
    while struct.unpack("!h", stream.read(2))[0] != -1:
        connection_id, prompt_id, simulated = (int.from_bytes(_field(stream)) for _ in range(3))
        documents = _array(_field(stream), ">i8").astype(np.int64)
        scores_or_states = _array(_field(stream), ">f8").astype(np.float64)
        origins = _array(_field(stream), ">i8").astype(np.int64)
        yield _ColumnArrays((connection_id, prompt_id), simulated, documents, scores_or_states, origins)


def _field(stream: io.BytesIO) -> bytes:
    (length,) = struct.unpack("!i", stream.read(4))
    return stream.read(length)


def _array(field: bytes, kind: str) -> NDArray[np.void]:
    """The elements of an array without NULLs, each of which comes after its length."""
    elements = np.frombuffer(field, [("length", ">i4"), ("value", kind)], offset=_ARRAY_HEADER_BYTES)
    values: NDArray[np.void] = elements["value"]
    return values
