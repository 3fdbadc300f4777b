"""Reads all current results of a batch as numbers: a table of documents and columns. Changes nothing.

A million results come as a few long arrays, which numpy takes as they are: no row becomes an object.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, words_in_sql


class State(IntEnum):
    """What a cell has: a score, or why it has none."""

    SCORED = 0
    WITHOUT_SCORE = 1
    """It succeeded, and no score came back."""
    FAILED = 2
    OPEN = 3
    """It neither succeeded nor failed."""
    ABSENT = 4
    """There is no such cell."""


# Scores are 0 to 100, so that one number can tell either the score or, negative, the state.
_SCORE_OR_STATE = f"""
    CASE WHEN status IN ({words_in_sql(Outcome.SUCCEEDED)})
         THEN coalesce(overall_score, -{State.WITHOUT_SCORE})
         WHEN status IN ({words_in_sql(Outcome.FAILED)}) THEN -{State.FAILED}
         ELSE -{State.OPEN} END
"""
# The numbers of another installation's rows name other rows here; negative, they name none.
_ORIGIN = "CASE WHEN reused_batch_id = 0 THEN -reused_from ELSE coalesce(reused_from, id) END"
_COLUMNS = f"""
    COPY (
        SELECT connection_id, prompt_id, count(*) FILTER (WHERE {SIMULATED_SQL}),
               array_agg(document_id), array_agg({_SCORE_OR_STATE}), array_agg({_ORIGIN})
        FROM current_llm_responses WHERE batch_id = %s GROUP BY 1, 2 ORDER BY 1, 2
    ) TO STDOUT (FORMAT binary)
"""
# https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": a signature, flags and an empty
# extension; rows of a number of fields and the fields, each after its length; -1 at the end.
_HEADER_BYTES = 19
_ARRAY_HEADER_BYTES = 20


@dataclass(frozen=True, slots=True)
class Scores:
    """The current results of a batch, as a table.

    Attributes
    ----------
    documents
        `docs.id` of all documents with a cell, ascending; one for each row of the tables.
    columns
        Connection and prompt, ascending; one for each column of the tables.
    values
        The score of each cell that succeeded and has one, from 0 to 100; NaN for all others.
    states
        A `State` for each cell.
    origins
        The row that each result was asked in: its own, or of a reused result its origin, negative where that
        is a row of another installation; 0 where there is no cell. Two results with the same origin are one.
    simulated
        How many cells of each column are simulated.
    """

    documents: NDArray[np.int64]
    columns: tuple[tuple[int, int], ...]
    values: NDArray[np.float64]
    states: NDArray[np.uint8]
    origins: NDArray[np.int64]
    simulated: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    key: tuple[int, int]
    simulated: int
    documents: NDArray[np.int64]
    found: NDArray[np.float64]  # as `_SCORE_OR_STATE`
    origins: NDArray[np.int64]


def read_scores(connection: Connection, batch_id: int) -> Scores:
    """Read all current results of a batch in one statement."""
    columns = list(_read(connection, batch_id))
    ids = [column.documents for column in columns]
    documents = np.unique(np.concatenate(ids)) if ids else np.empty(0, np.int64)
    shape = (documents.size, len(columns))
    values, states = np.full(shape, np.nan), np.full(shape, State.ABSENT, np.uint8)
    origins = np.zeros(shape, np.int64)
    for place, column in enumerate(columns):
        rows = np.searchsorted(documents, column.documents)
        values[rows, place] = np.where(column.found < 0, np.nan, column.found)
        states[rows, place] = np.where(column.found < 0, -column.found, State.SCORED)
        origins[rows, place] = column.origins
    keys, simulated = tuple(c.key for c in columns), tuple(c.simulated for c in columns)
    return Scores(documents, keys, values, states, origins, simulated)


def are_same_results(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where two arrays of origins name the same row: one result on both sides, which differs from nothing."""
    same: NDArray[np.bool_] = (first == second) & (first != 0)
    return same


def _read(connection: Connection, batch_id: int) -> Iterator[_Column]:
    stream = io.BytesIO()
    with closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(cursor.mogrify(_COLUMNS, (batch_id,)), stream)
    stream.seek(_HEADER_BYTES)
    while struct.unpack("!h", stream.read(2))[0] != -1:
        connection_id, prompt_id, simulated = (int.from_bytes(_field(stream)) for _ in range(3))
        documents = _array(_field(stream), ">i8").astype(np.int64)
        found = _array(_field(stream), ">f8").astype(np.float64)
        origins = _array(_field(stream), ">i8").astype(np.int64)
        yield _Column((connection_id, prompt_id), simulated, documents, found, origins)


def _field(stream: io.BytesIO) -> bytes:
    (length,) = struct.unpack("!i", stream.read(4))
    return stream.read(length)


def _array(field: bytes, kind: str) -> NDArray[np.void]:
    """The elements of an array without NULLs, each of which comes after its length."""
    elements = np.frombuffer(field, [("length", ">i4"), ("value", kind)], offset=_ARRAY_HEADER_BYTES)
    found: NDArray[np.void] = elements["value"]
    return found
