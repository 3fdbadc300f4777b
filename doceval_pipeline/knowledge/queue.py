"""Writes the queue: one row for each (document, prompt, connection) of a batch, and its sealed configuration.

Reused results are in `reuse`, new attempts in `attempts`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import WRITTEN_WORD, Outcome
from doceval_pipeline.domain.files import DocumentRange
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.knowledge.outcomes import has_outcome_sql, outcome_sql
from doceval_pipeline.knowledge.reuse import lock_same_questions, take_results

# The only fields of a connection that reach a queue row; no field holds a secret.
CONNECTION_DETAILS = (
    "id",
    "name",
    "provider_type",
    "model_name",
    "base_url",
    "port_no",
    "connection_config",
    "api_key_env",
)

# The only foreign key of a queue row is its document.
FOREIGN_KEY_VIOLATION = "23503"
# Distance in virtual time between the rows of a batch of priority 1; see the sequence
# llm_responses_queue_clock. Twice the priority gives half the distance and twice the share.
STEP = 1_000_000
_QUEUED_WORD = WRITTEN_WORD[Outcome.WAITING]
_HELD_WORD = WRITTEN_WORD[Outcome.PAUSED]
_CLOSED_WORD = WRITTEN_WORD[Outcome.FAILED]

_PUBLISH_CONFIG = text("""
    INSERT INTO batch_configs (batch_id, config, sha256)
    VALUES (:batch_id, CAST(:config AS jsonb), :sha256)
    ON CONFLICT (batch_id) DO NOTHING
""")
_PUBLISHED = text("SELECT sha256 FROM batch_configs WHERE batch_id = :batch_id")
_CELLS = """
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details,
                               file_name, queue_position)
    SELECT :batch_id, d.id, p.id, c.id, c.details, d.file_name,
           clock.last_value - :shift
           + (((d.n - 1) * cardinality(CAST(:prompts AS int[])) + p.n - 1)
              * cardinality(CAST(:connections AS int[])) + c.n) * :step
    FROM llm_responses_queue_clock AS clock
    CROSS JOIN unnest(CAST(:documents AS bigint[]), CAST(:file_names AS text[]))
        WITH ORDINALITY AS d(id, file_name, n)
    CROSS JOIN unnest(CAST(:prompts AS int[])) WITH ORDINALITY AS p(id, n)
    CROSS JOIN unnest(CAST(:connections AS int[]), CAST(:details AS jsonb[]))
        WITH ORDINALITY AS c(id, details, n)
"""
_ENQUEUE_ALL = text(_CELLS)
_IS_MISSING = """NOT EXISTS (
        SELECT 1 FROM llm_responses r
        WHERE r.batch_id = :batch_id AND r.document_id = d.id AND r.prompt_id = p.id
          AND r.connection_id = c.id)"""
_ENQUEUE_MISSING = text(f"{_CELLS} WHERE {_IS_MISSING}")
# The first call for a batch, usually the only one, does not have to search for existing rows.
_HAS_ROWS = text("SELECT EXISTS (SELECT 1 FROM llm_responses WHERE batch_id = :batch_id)")
# The triggers on llm_responses do not count first attempts, which only this module queues.
_COUNT_QUEUED = text("""
    INSERT INTO response_deltas (batch_id, waiting, succeeded, reused)
    VALUES (:batch_id, :rows, :reused, :reused)
""")
# PostgreSQL looks up an IN inside an expression in a hash table. It might compare a join row by row, because
# it does not know yet how many rows have just been written.
_QUEUED_ROWS = text("""
    SELECT count(*) FILTER (WHERE document_id IN (SELECT unnest(CAST(:documents AS bigint[])))) AS wanted,
           count(*) AS rows, count(reused_from) AS reused
    FROM current_llm_responses
    WHERE batch_id = :batch_id AND document_id > :after AND document_id <= :through
      AND prompt_id = ANY(:prompts) AND connection_id = ANY(:connections)
""")
# Updates only rows that change, so that a second call writes nothing.
_WITHDRAW_OTHERS = text("""
    UPDATE llm_responses SET withdrawn_at = CASE WHEN withdrawn_at IS NULL THEN now() END
    WHERE batch_id = :batch_id AND document_id > :after AND document_id <= :through
      AND (withdrawn_at IS NULL) <> (document_id IN (SELECT unnest(CAST(:documents AS bigint[]))))
""")
# Runs before the rows are updated: a row that returns to the queue at the same time waits for it, or is among
# them.
_REQUEUE_AS = text("""
    UPDATE batch_configs SET requeue_as = :word WHERE batch_id = :batch_id AND requeue_as <> :word
""")
# A cancelled batch stays cancelled, whatever is held or released meanwhile.
_REQUEUE_AS_IF_WANTED = text(f"""
    UPDATE batch_configs SET requeue_as = :word
    WHERE batch_id = :batch_id AND requeue_as NOT IN (:word, '{_CLOSED_WORD}')
""")
_REQUEUE_AS_CLOSED_IF_FREE = text(f"""
    UPDATE batch_configs SET requeue_as = '{_CLOSED_WORD}'
    WHERE requeue_as <> '{_CLOSED_WORD}'
      AND batch_id = (SELECT batch_id FROM batch_configs WHERE batch_id = :batch_id
                      FOR NO KEY UPDATE SKIP LOCKED)
""")
# Skips rows that others have locked. Rows are found by their physical place, which the lock keeps stable.
_HOLD_FREE = text(f"""
    UPDATE llm_responses SET status = '{_HELD_WORD}'
    WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM llm_responses
        WHERE batch_id = :batch_id AND {has_outcome_sql(Outcome.WAITING)}
        FOR NO KEY UPDATE SKIP LOCKED))
""")
_CLOSE_FREE = text(f"""
    UPDATE llm_responses
    SET status = '{_CLOSED_WORD}', error_message = :reason, completed_processing_at = now()
    WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM llm_responses
        WHERE batch_id = :batch_id
          AND {has_outcome_sql(Outcome.WAITING, Outcome.PAUSED)}
        FOR NO KEY UPDATE SKIP LOCKED))
""")
_HAS_WAITING = text(f"""
    SELECT EXISTS (
        SELECT FROM llm_responses
        WHERE batch_id = :batch_id
          AND {has_outcome_sql(Outcome.WAITING, Outcome.PAUSED)})
""")
_HOLD = text(f"""
    UPDATE llm_responses SET status = '{_HELD_WORD}'
    WHERE batch_id = :batch_id AND {has_outcome_sql(Outcome.WAITING)}
""")
_RELEASE = text(f"""
    UPDATE llm_responses r
    SET status = '{_QUEUED_WORD}',
        queue_position = (SELECT last_value FROM llm_responses_queue_clock) + held.rank * :step - :shift
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS rank FROM llm_responses
          WHERE batch_id = :batch_id AND {has_outcome_sql(Outcome.PAUSED)}) AS held
    WHERE r.id = held.id AND {has_outcome_sql(Outcome.PAUSED, status="r.status")}
""")
_CLOSE = text(f"""
    UPDATE llm_responses
    SET status = '{_CLOSED_WORD}', error_message = :reason, completed_processing_at = now()
    WHERE batch_id = :batch_id
      AND {has_outcome_sql(Outcome.WAITING, Outcome.PAUSED)}
""")
# The message that the trigger close_withdrawn writes.
LEFT = "its document left the batch before it was evaluated"
HAS_LEFT = f"status = '{_CLOSED_WORD}' AND error_message IS NOT DISTINCT FROM '{LEFT}'"
_TALLY = text(f"""
    SELECT r.connection_id, {outcome_sql("r.status")} AS outcome,
           r.document_id IN (SELECT unnest(CAST(:documents AS bigint[]))) AS wanted,
           r.withdrawn_at IS NOT NULL AS withdrawn, {HAS_LEFT} AS has_left, count(*) AS rows,
           sum(d.file_size)::bigint AS bytes
    FROM llm_responses r
    JOIN docs d ON d.id = r.document_id
    WHERE r.batch_id = :batch_id AND r.document_id > :after AND r.document_id <= :through
      AND r.prompt_id = ANY(:prompts) AND r.connection_id = ANY(:connections) AND r.superseded_at IS NULL
    GROUP BY 1, 2, 3, 4, 5
""")
_TIDY = text("SELECT tidy_queue()")
_ROWS = text("SELECT count(*) FROM llm_responses WHERE batch_id = :batch_id")


class DocumentsGone(Exception):
    """A document to queue is no longer stored: it was archived with another batch."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """How many rows were added: to be processed, with a reused result, and as new attempts."""

    queued: int
    reused: int
    returned: int = 0


@dataclass(frozen=True, slots=True)
class QueuedRows:
    """How many documents a batch has, and current rows: for them, for others, and with a reused result."""

    documents: int
    wanted: int
    others: int
    reused: int


@dataclass(frozen=True, slots=True)
class RowTally:
    """Evaluations of a batch on a connection whose newest attempts have the same outcome.

    `wanted` says whether the batch should have their documents, `has_left` whether they were closed when
    their documents left the batch. `bytes` is the sum of the sizes of their documents.
    """

    connection_id: int
    outcome: Outcome
    wanted: bool
    withdrawn: bool
    has_left: bool
    rows: int
    bytes: int

    def with_more(self, other: "RowTally") -> "RowTally":
        """The same with the rows and bytes of another tally."""
        return replace(self, rows=self.rows + other.rows, bytes=self.bytes + other.bytes)


def publish_config(connection: Connection, batch_id: int, canonical: str, sha256: str) -> None:
    """Store a sealed configuration where processors read it; repeated calls change nothing.

    Raises
    ------
    DatabaseError
        Another configuration has this number: the database belongs to another doc_eval.
    """
    connection.execute(_PUBLISH_CONFIG, {"batch_id": batch_id, "config": canonical, "sha256": sha256})
    if connection.scalar(_PUBLISHED, {"batch_id": batch_id}) != sha256:
        raise DatabaseError(
            f"KnowledgeDocuments already has another batch {batch_id} with another configuration: another "
            "doc_eval database uses it; set KNOWLEDGE_DOCUMENTS_URL to a database of its own"
        )


def enqueue(
    connection: Connection,
    batch_id: int,
    documents: Iterable[DocumentRange],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
    priority: int,
    *,
    reuse: bool = False,
) -> Enqueued:
    """Add a row for each evaluation without one, in the caller's transaction.

    Parameters
    ----------
    documents
        Ascending, with the file names that processors receive.
    prompts, connections
        As a sealed configuration lists them.
    priority
        From 1 to 100: the batch's share of the deliveries, relative to other batches.
    reuse
        Take results of other batches for the same questions about the same documents.

    Raises
    ------
    DocumentsGone
        A document is no longer stored; the transaction must be rolled back.
    """
    cells = {
        **_cell_parameters(batch_id, prompts, connections),
        "details": [json.dumps({key: c[key] for key in CONNECTION_DETAILS}) for c in connections],
    }
    only_missing = has_rows(connection, batch_id)
    questions = lock_same_questions(connection, batch_id, prompts, connections) if reuse else {}
    columns = len(prompts) * len(connections)
    added = reused = before = 0
    try:
        for part in documents:
            rows = {**cells, **_documents(part), **queue_places(batch_id, priority, before * columns)}
            taken = take_results(connection, rows, questions, only_missing=only_missing) if questions else 0
            if only_missing or taken < len(part.ids) * columns:
                statement = _ENQUEUE_MISSING if only_missing or taken else _ENQUEUE_ALL
                added += connection.execute(statement, rows).rowcount
            reused += taken
            before += len(part.ids)
    except IntegrityError as error:
        if getattr(error.orig, "pgcode", None) == FOREIGN_KEY_VIOLATION:
            raise DocumentsGone from None
        raise
    if added or reused:
        connection.execute(_COUNT_QUEUED, {"batch_id": batch_id, "rows": added, "reused": reused})
        set_requeue_status(connection, batch_id, Outcome.WAITING)
    return Enqueued(added, reused)


def has_rows(connection: Connection, batch_id: int) -> bool:
    """Whether a batch has any row in the queue."""
    return bool(connection.scalar(_HAS_ROWS, {"batch_id": batch_id}))


def count_queued(
    connection: Connection,
    batch_id: int,
    documents: Iterable[DocumentRange],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> QueuedRows:
    """Count a batch's documents, and its current rows: for them, for others, and with a reused result."""
    cells = _cell_parameters(batch_id, prompts, connections)
    found = QueuedRows(0, 0, 0, 0)
    for part in documents:
        row = connection.execute(_QUEUED_ROWS, {**cells, **_documents(part)}).one()
        found = QueuedRows(
            documents=found.documents + len(part.ids),
            wanted=found.wanted + row.wanted,
            others=found.others + row.rows - row.wanted,
            reused=found.reused + row.reused,
        )
    return found


def tally_rows(
    connection: Connection,
    batch_id: int,
    documents: Iterable[DocumentRange],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> list[RowTally]:
    """Count a batch's rows, withdrawn ones included; `wanted` rows are those of the given documents."""
    cells = _cell_parameters(batch_id, prompts, connections)
    tallies: dict[tuple[Any, ...], RowTally] = {}
    for part in documents:
        for row in connection.execute(_TALLY, {**cells, **_documents(part)}):
            found = RowTally(**{**row._mapping, "outcome": Outcome(row.outcome)})
            kind = (found.connection_id, found.outcome, found.wanted, found.withdrawn, found.has_left)
            known = tallies.get(kind)
            tallies[kind] = found if known is None else known.with_more(found)
    return list(tallies.values())


def withdraw_others(connection: Connection, batch_id: int, documents: DocumentRange) -> int:
    """Withdraw the rows of a range for all but the given documents, and reinstate the rows for these.

    Waiting rows are closed when they are withdrawn. Nothing is deleted. Returns how many rows changed.
    """
    return connection.execute(_WITHDRAW_OTHERS, {"batch_id": batch_id, **_documents(documents)}).rowcount


def hold_free(connection: Connection, batch_id: int) -> int:
    """Hold the waiting rows of a batch that are not locked, without waiting for locks; returns how many."""
    return connection.execute(_HOLD_FREE, {"batch_id": batch_id}).rowcount


def close_free(connection: Connection, batch_id: int, reason: str) -> int:
    """Close the waiting and held rows of a batch that are not locked, without waiting for locks.

    Running rows that return to the queue later are closed too, unless one returns during the call. Returns
    how many were closed.
    """
    connection.execute(_REQUEUE_AS_CLOSED_IF_FREE, {"batch_id": batch_id})
    return connection.execute(_CLOSE_FREE, {"batch_id": batch_id, "reason": reason}).rowcount


def has_waiting(connection: Connection, batch_id: int) -> bool:
    """Whether any row of a batch is waiting or held."""
    return bool(connection.execute(_HAS_WAITING, {"batch_id": batch_id}).scalar_one())


def hold(connection: Connection, batch_id: int) -> int:
    """Hold a batch's waiting rows, so that no processor takes them; returns how many.

    Running rows that return to the queue later are held too.
    """
    connection.execute(_REQUEUE_AS_IF_WANTED, {"batch_id": batch_id, "word": _HELD_WORD})
    return connection.execute(_HOLD, {"batch_id": batch_id}).rowcount


def release(connection: Connection, batch_id: int, priority: int) -> int:
    """Queue a batch's held rows again, as if they were added now; returns how many."""
    connection.execute(_REQUEUE_AS_IF_WANTED, {"batch_id": batch_id, "word": _QUEUED_WORD})
    return connection.execute(_RELEASE, {"batch_id": batch_id, **queue_places(batch_id, priority)}).rowcount


def close(connection: Connection, batch_id: int, reason: str) -> int:
    """Close a batch's waiting and held rows as failed; running ones may finish. Returns how many.

    Running rows that return to the queue later are closed too.
    """
    set_requeue_status(connection, batch_id, Outcome.FAILED)
    return connection.execute(_CLOSE, {"batch_id": batch_id, "reason": reason}).rowcount


def set_requeue_status(connection: Connection, batch_id: int, outcome: Outcome) -> None:
    """Set what running rows of a batch become when they return to the queue."""
    connection.execute(_REQUEUE_AS, {"batch_id": batch_id, "word": WRITTEN_WORD[outcome]})


def tidy(connection: Connection) -> int:
    """Return rows with expired leases to the queue, and move rows that were left behind to its head.

    A claim that finds too few rows does so too. Returns how many rows changed.
    """
    return int(connection.execute(_TIDY).scalar_one())


def count_rows(connection: Connection, batch_id: int) -> int:
    """How many rows a batch has in the queue, with all attempts."""
    return int(connection.execute(_ROWS, {"batch_id": batch_id}).scalar_one())


def queue_places(batch_id: int, priority: int, before: int = 0) -> dict[str, int]:
    """The distance of a batch's rows in virtual time, and a shift so that batches do not share places.

    `before` is the number of the batch's rows that come before.
    """
    step = STEP // priority
    return {"step": step, "shift": batch_id * 7919 % step - before * step}


def _cell_parameters(
    batch_id: int, prompts: Sequence[dict[str, Any]], connections: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "prompts": [prompt["id"] for prompt in prompts],
        "connections": [connection["id"] for connection in connections],
    }


def _documents(part: DocumentRange) -> dict[str, Any]:
    return {
        "documents": arrays.of_numbers(part.ids),
        "file_names": arrays.of_texts(part.names),
        "after": part.after,
        "through": part.through,
    }
