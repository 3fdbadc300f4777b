"""The definition of an invariant, and the SQL conditions that invariants share. Executes nothing."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import TextClause

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Status

# Size of the sample of documents that is decoded for each batch: at most this many documents and this many
# bytes in total, but always at least one document.
SAMPLE = 50
SAMPLE_BYTES = 16 * 1024 * 1024


class Database(Enum):
    """The database that a query runs in."""

    DOC_EVAL = "doc_eval"
    KNOWLEDGE = "knowledge"

    @property
    def other(self) -> "Database":
        """The other database."""
        return Database.KNOWLEDGE if self is Database.DOC_EVAL else Database.DOC_EVAL


@dataclass(frozen=True)
class Scope:
    """How much an audit covers.

    Parameters
    ----------
    batch
        Only this batch, for queries that can be limited to one batch; None for all batches.
    sample
        Number of documents to decode per batch, drawn at random, up to `SAMPLE_BYTES`; None for all.
    seed
        Seed of the sample: the same scope always selects the same documents.
    every_byte
        Whether to read archives to their end.
    """

    batch: int | None = None
    sample: int | None = SAMPLE
    seed: int = field(default_factory=lambda: secrets.randbits(31))
    every_byte: bool = False


Inspect = Callable[[Databases, Mapping[str, Any], Scope], str | None]


@dataclass(frozen=True, kw_only=True)
class Invariant:
    """A statement that must be true, and the query that returns the rows that violate it.

    Parameters
    ----------
    name
        Short and stable; the heading in docs/invariants.md.
    statement
        The sentence that must be true.
    runs_in
        The databases that the query runs in, separately in each.
    query
        Returns `batch_id` (or NULL), `subject` and `problem` for each violation. Deterministic: the same
        data gives the same rows in the same order.
    input_query
        A query in the other database. Its rows are passed to `query` in portions, each column as an
        array under its name; `:first_x` and `:last_x` are column x of the first and last row.
    inspect
        Decides where SQL cannot: returns the problem with a row of `query`, or None.
    bisect_on
        The SQLSTATE with which the server rejects a whole portion because of one row. The portion is
        then bisected to find that row.
    fix
        What to do; may name columns of the row in braces.
    """

    name: str
    statement: str
    runs_in: tuple[Database, ...]
    query: TextClause
    fix: str
    input_query: TextClause | None = None
    inspect: Inspect | None = None
    bisect_on: str | None = None


def states_in_sql(states: Sequence[Status]) -> str:
    """Batch states as a list of SQL literals."""
    return ", ".join(f"'{state}'" for state in states)


# Conditions on `batches AS b`: its rows are in the queue; it is in the scope of the audit.
HAS_CELLS = f"b.archived_at IS NULL AND b.status IN ({states_in_sql((*OPEN, *CLOSED))})"
BATCH_IN_SCOPE = "(CAST(:batch AS int) IS NULL OR b.id = :batch)"
# Conditions on a row `r` of KnowledgeDocuments. Changes since the last poll are still in response_deltas;
# the next poll handles them.
ROW_IN_SCOPE = "(CAST(:batch AS int) IS NULL OR r.batch_id = :batch)"
IS_POLLED = "NOT EXISTS (SELECT 1 FROM response_deltas d WHERE d.batch_id = r.batch_id)"
IS_DONE = "response_outcome(r.status) IN ('succeeded', 'failed')"
