"""What an invariant is, and the conditions that their queries share. Asks nothing."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import TextClause

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Status

# Documents of a batch that are decoded and compared where not all are asked for: so many, and no more
# than these bytes together, but at least one.
SAMPLE = 50
SAMPLE_BYTES = 16 * 1024 * 1024


class Side(Enum):
    """Where a query runs."""

    DOC_EVAL = "doc_eval"
    KNOWLEDGE = "knowledge"

    @property
    def other(self) -> "Side":
        """The other database."""
        return Side.KNOWLEDGE if self is Side.DOC_EVAL else Side.DOC_EVAL


@dataclass(frozen=True)
class Scope:
    """How far to look.

    Parameters
    ----------
    batch
        Only this batch, where the query can be asked for one; None for all.
    sample
        How many documents of a batch are decoded, drawn at random, up to `SAMPLE_BYTES`; None for all.
    seed
        Of the drawing: who looks again with the same scope looks at the same documents.
    every_byte
        Read archives to their end.
    """

    batch: int | None = None
    sample: int | None = SAMPLE
    seed: int = field(default_factory=lambda: secrets.randbits(31))
    every_byte: bool = False


Judge = Callable[[Databases, Mapping[str, Any], Scope], str | None]


@dataclass(frozen=True, kw_only=True)
class Invariant:
    """Something that must be true, and the query that returns what offends against it.

    Parameters
    ----------
    name
        Short and stable; the heading in docs/invariants.md.
    must_hold
        The sentence of what must be true.
    runs_in
        The databases that the query is asked in, each by itself.
    query
        Gives `batch_id` (or NULL), `thing` and `wrong` for each offence; sets of rows, always the same
        ones for the same data, and in the same order.
    handed
        A query in the other database. Its rows are handed to `query` in portions, each column as an
        array under its name; `:first_x` and `:last_x` are column x of the first and last row.
    judge
        Where the database alone cannot tell: what is wrong with a row that `query` gave, or None.
    halves_on
        The SQLSTATE with which the server refuses a portion because of one row in it, which is then
        looked for in halves.
    mend
        What to do; may name columns of the row in braces.
    """

    name: str
    must_hold: str
    runs_in: tuple[Side, ...]
    query: TextClause
    mend: str
    handed: TextClause | None = None
    judge: Judge | None = None
    halves_on: str | None = None


def states_in_sql(states: Sequence[Status]) -> str:
    """States of a batch as a list of SQL constants."""
    return ", ".join(f"'{state}'" for state in states)


# Conditions on `batches AS b`: those whose rows are in the queue, and of them the one that is asked for.
HAS_CELLS = f"b.archived_at IS NULL AND b.status IN ({states_in_sql((*OPEN, *CLOSED))})"
IS_ASKED_FOR = "(CAST(:batch AS int) IS NULL OR b.id = :batch)"
# Conditions on a row `r` of KnowledgeDocuments. What was written since the last look of the pipeline is
# still in response_deltas, and the next look acts on it.
ROW_IS_ASKED_FOR = "(CAST(:batch AS int) IS NULL OR r.batch_id = :batch)"
WAS_LOOKED_AT = "NOT EXISTS (SELECT 1 FROM response_deltas d WHERE d.batch_id = r.batch_id)"
IS_DONE = "response_outcome(r.status) IN ('succeeded', 'failed')"
