"""Writes the queue: one row for each (document, prompt, connection) of a batch, and its sealed config."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, outcome_sql, words_in_sql

# The only keys that reach a queue row; there is no key for a secret.
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

# The only reference of a queue row is the one to its document.
FOREIGN_KEY_VIOLATION = "23503"
# How far apart in virtual time the rows of a batch of priority 1 are placed; see the sequence
# llm_responses_queue_clock. Twice the priority gets half the distance, and twice the share.
STEP = 1_000_000

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
# Locks the questions of other batches until their results are taken. Archiving such a batch waits, and then
# makes answers of the new rows. Both lock questions before documents.
_KEEP_ANSWERED = text("""
    SELECT 1 FROM batch_questions
    WHERE batch_id <> :batch_id AND digest IN (
        SELECT question_digest(p, c)
        FROM jsonb_array_elements(CAST(:prompts AS jsonb)) AS p
        CROSS JOIN jsonb_array_elements(CAST(:connections AS jsonb)) AS c)
    ORDER BY batch_id, prompt_id, connection_id FOR KEY SHARE
""")
# A result that other batches may take: it succeeded, has a score, and no new attempt was asked for. As the
# index llm_responses_answers has it.
IS_ANSWER = f"""
    r.is_answer AND r.superseded_at IS NULL AND r.overall_score IS NOT NULL
    AND r.status IN ({words_in_sql(Outcome.SUCCEEDED)})
"""
# Where other batches have the questions of a batch.
_SAME_QUESTIONS = text("""
    SELECT b.batch_id, b.prompt_id, b.connection_id, CAST(p ->> 'id' AS int), CAST(c ->> 'id' AS int),
           c ->> 'provider_type' = 'simulation'
    FROM jsonb_array_elements(CAST(:prompts AS jsonb)) AS p
    CROSS JOIN jsonb_array_elements(CAST(:connections AS jsonb)) AS c
    JOIN batch_questions b ON b.digest = question_digest(p, c) AND b.batch_id <> :batch_id
""")
# For each question that a batch asks about its documents, the newest result that other batches have. What
# left its batch counts too: it was paid for. Made-up results answer no question to a real model. PostgreSQL
# plans with the lengths of the arrays. Results are joined last, because sorting their texts needs the disk.
_NEWEST_RESULTS = f"""
    WITH newest AS (
        SELECT max(r.id) AS id, r.document_id, q.prompt_id, q.connection_id, min(d.file_name) AS file_name
        FROM unnest(CAST(:documents AS bigint[]), CAST(:file_names AS text[])) AS d(id, file_name)
        JOIN llm_responses r ON r.document_id = d.id AND {IS_ANSWER}
        JOIN unnest(CAST(:their_batches AS int[]), CAST(:their_prompts AS int[]),
                    CAST(:their_connections AS int[]), CAST(:own_prompts AS int[]),
                    CAST(:own_connections AS int[]), CAST(:are_simulations AS boolean[]))
             AS q(batch_id, their_prompt, their_connection, prompt_id, connection_id, is_simulation)
            ON q.batch_id = r.batch_id AND q.their_prompt = r.prompt_id
               AND q.their_connection = r.connection_id AND (q.is_simulation OR NOT {SIMULATED_SQL})
        GROUP BY r.document_id, q.prompt_id, q.connection_id
        ORDER BY r.document_id, q.prompt_id, q.connection_id)
"""
_QUESTION_COLUMNS = (
    "their_batches",
    "their_prompts",
    "their_connections",
    "own_prompts",
    "own_connections",
    "are_simulations",
)
_HAS_NO_ROW = """NOT EXISTS (
        SELECT 1 FROM llm_responses r
        WHERE r.batch_id = :batch_id AND r.document_id = n.document_id AND r.prompt_id = n.prompt_id
          AND r.connection_id = n.connection_id)"""
_REUSED = f"""
    {_NEWEST_RESULTS}
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details,
                               file_name, queue_position, status, overall_score, response_text, response_json,
                               worker, reused_from, reused_batch_id, is_answer)
    SELECT :batch_id, n.document_id, n.prompt_id, n.connection_id, c.details, n.file_name, 0, 'S',
           e.overall_score, e.response_text, e.response_json, coalesce(e.worker, e.task_id),
           coalesce(e.reused_from, e.id), coalesce(e.reused_batch_id, e.batch_id), false
    FROM newest AS n
    JOIN llm_responses e ON e.id = n.id
    JOIN unnest(CAST(:connections AS int[]), CAST(:details AS jsonb[])) AS c(id, details)
        ON c.id = n.connection_id
"""
_REUSE_ALL = text(_REUSED)
_REUSE_MISSING = text(f"{_REUSED} WHERE {_HAS_NO_ROW}")
_REUSABLE = text(f"""
    {_NEWEST_RESULTS}
    SELECT n.connection_id, coalesce(e.reused_batch_id, e.batch_id), count(*), sum(docs.file_size)::bigint
    FROM newest AS n
    JOIN llm_responses e ON e.id = n.id
    JOIN docs ON docs.id = n.document_id
    WHERE {_HAS_NO_ROW}
    GROUP BY 1, 2
""")
# Sorting in pieces of 4 MB would take twice as long.
MORE_MEMORY = text("SET LOCAL work_mem = '64MB'")
# An IN that is no condition by itself is looked up in a hash table. As a join it may be compared row
# by row, because PostgreSQL does not know yet how many rows have just been written.
_HAS_ROWS = text("SELECT EXISTS (SELECT 1 FROM llm_responses WHERE batch_id = :batch_id)")
# What the triggers on llm_responses do not see: first attempts, which only this module queues.
_COUNT_QUEUED = text("""
    INSERT INTO response_deltas (batch_id, waiting, succeeded, reused)
    VALUES (:batch_id, :rows, :reused, :reused)
""")
_QUEUED_CELLS = text("""
    SELECT count(*) FILTER (WHERE document_id IN (SELECT unnest(CAST(:documents AS bigint[])))), count(*),
           count(reused_from)
    FROM current_llm_responses
    WHERE batch_id = :batch_id AND prompt_id = ANY(:prompts) AND connection_id = ANY(:connections)
""")
# Written only where it changes something, so that a second time writes nothing.
_WITHDRAW_OTHERS = text("""
    UPDATE llm_responses SET withdrawn_at = CASE WHEN withdrawn_at IS NULL THEN now() END
    WHERE batch_id = :batch_id
      AND (withdrawn_at IS NULL) <> (document_id IN (SELECT unnest(CAST(:documents AS bigint[]))))
""")
# Before the rows, so that a row that goes back at the same time waits for it, or is found with them.
_REQUEUE_AS = text("""
    UPDATE batch_configs SET requeue_as = :word WHERE batch_id = :batch_id AND requeue_as <> :word
""")
# A batch that was cancelled stays so, whatever is held or released of it meanwhile.
_REQUEUE_AS_IF_WANTED = text("""
    UPDATE batch_configs SET requeue_as = :word
    WHERE batch_id = :batch_id AND requeue_as NOT IN (:word, 'F')
""")
_REQUEUE_AS_F_IF_FREE = text("""
    UPDATE batch_configs SET requeue_as = 'F'
    WHERE requeue_as <> 'F' AND batch_id = (SELECT batch_id FROM batch_configs WHERE batch_id = :batch_id
                                            FOR NO KEY UPDATE SKIP LOCKED)
""")
# Rows that somebody else has locked are left for later. By their physical place, which the lock holds still.
_HOLD_FREE = text(f"""
    UPDATE llm_responses SET status = 'PAUSED'
    WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM llm_responses
        WHERE batch_id = :batch_id AND status IN ({words_in_sql(Outcome.WAITING)})
        FOR NO KEY UPDATE SKIP LOCKED))
""")
_CLOSE_FREE = text(f"""
    UPDATE llm_responses SET status = 'F', error_message = :reason, completed_processing_at = now()
    WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM llm_responses
        WHERE batch_id = :batch_id
          AND status IN ({words_in_sql(Outcome.WAITING)}, {words_in_sql(Outcome.PAUSED)})
        FOR NO KEY UPDATE SKIP LOCKED))
""")
_HAS_WAITING = text(f"""
    SELECT EXISTS (
        SELECT FROM llm_responses
        WHERE batch_id = :batch_id
          AND status IN ({words_in_sql(Outcome.WAITING)}, {words_in_sql(Outcome.PAUSED)}))
""")
_HOLD = text(f"""
    UPDATE llm_responses SET status = 'PAUSED'
    WHERE batch_id = :batch_id AND status IN ({words_in_sql(Outcome.WAITING)})
""")
_RELEASE = text(f"""
    UPDATE llm_responses r
    SET status = 'QUEUED',
        queue_position = (SELECT last_value FROM llm_responses_queue_clock) + held.rank * :step - :shift
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS rank FROM llm_responses
          WHERE batch_id = :batch_id AND status IN ({words_in_sql(Outcome.PAUSED)})) AS held
    WHERE r.id = held.id AND r.status IN ({words_in_sql(Outcome.PAUSED)})
""")
_CLOSE = text(f"""
    UPDATE llm_responses
    SET status = 'F', error_message = :reason, completed_processing_at = now()
    WHERE batch_id = :batch_id
      AND status IN ({words_in_sql(Outcome.WAITING)}, {words_in_sql(Outcome.PAUSED)})
""")
# What the trigger close_withdrawn writes.
LEFT = "its document left the batch before it was evaluated"
# A cell with an attempt that is not done is left alone, so that asking twice queues once.
_REQUEUED = """
    WITH again AS (
        UPDATE llm_responses SET superseded_at = now()
        WHERE batch_id = :batch_id AND superseded_at IS NULL AND {condition}
        RETURNING batch_id, document_id, prompt_id, connection_id, attempt, connection_details, file_name)
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, attempt, connection_details,
                               file_name, queue_position)
    SELECT batch_id, document_id, prompt_id, connection_id, attempt + 1, connection_details, file_name,
           clock.last_value - :shift
           + row_number() OVER (ORDER BY document_id, prompt_id, connection_id) * :step
    FROM again, llm_responses_queue_clock AS clock
    ORDER BY document_id, prompt_id, connection_id
"""
_HAS_LEFT = f"status = 'F' AND error_message IS NOT DISTINCT FROM '{LEFT}'"
_REQUEUE = text(_REQUEUED.format(condition=f"withdrawn_at IS NULL AND {outcome_sql()} = ANY(:outcomes)"))
_REQUEUE_RETURNING = text(
    _REQUEUED.format(
        condition=f"""withdrawn_at IS NOT NULL AND {_HAS_LEFT}
          AND document_id IN (SELECT unnest(CAST(:documents AS bigint[])))"""
    )
)
_FULFILLED = text("""
    SELECT new_attempts FROM reprocess_requests WHERE batch_id = :batch_id AND request = :request
""")
_FULFIL = text("""
    INSERT INTO reprocess_requests (batch_id, request, new_attempts)
    VALUES (:batch_id, :request, :new_attempts)
""")
_FORGET_REQUESTS = text("""
    DELETE FROM reprocess_requests WHERE created_at < now() - make_interval(days => :days)
""")
_TALLY = text(f"""
    SELECT r.connection_id, {outcome_sql("r.status")},
           r.document_id IN (SELECT unnest(CAST(:documents AS bigint[]))),
           r.withdrawn_at IS NOT NULL, {_HAS_LEFT} AS has_left, count(*), sum(d.file_size)::bigint
    FROM llm_responses r
    JOIN docs d ON d.id = r.document_id
    WHERE r.batch_id = :batch_id AND r.prompt_id = ANY(:prompts) AND r.connection_id = ANY(:connections)
      AND r.superseded_at IS NULL
    GROUP BY 1, 2, 3, 4, 5
""")
_TIDY = text("SELECT tidy_queue()")
_ROWS = text("SELECT count(*) FROM llm_responses WHERE batch_id = :batch_id")


class ContentsGone(Exception):
    """A document that was to be queued is no longer stored: it was archived with another batch."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """Rows that were added: to be processed, with a result that another batch has, and as new attempts."""

    queued: int
    reused: int
    returned: int = 0


@dataclass(frozen=True, slots=True)
class Reusable:
    """Cells without a row on a connection whose results an earlier batch has.

    `bytes` are the sizes of the documents added up over the cells.
    """

    connection_id: int
    batch_id: int
    cells: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RowTally:
    """Cells of a batch on a connection whose newest attempts have the same outcome.

    `wanted` says whether their documents are among those that were asked for, `has_left` whether they were
    closed when their documents left the batch; `bytes` are the sizes of the documents added up over the
    cells.
    """

    connection_id: int
    outcome: Outcome
    wanted: bool
    withdrawn: bool
    has_left: bool
    rows: int
    bytes: int


def publish_config(connection: Connection, batch_id: int, canonical: str, sha256: str) -> None:
    """Put a sealed configuration where processors find it; a second time changes nothing.

    Raises
    ------
    DatabaseError
        Another configuration stands under this number: the database belongs to another doc_eval.
    """
    connection.execute(_PUBLISH_CONFIG, {"batch_id": batch_id, "config": canonical, "sha256": sha256})
    if connection.scalar(_PUBLISHED, {"batch_id": batch_id}) != sha256:
        raise DatabaseError(
            f"KnowledgeDocuments already holds another batch {batch_id}, with another configuration: it is "
            "used by another doc_eval database; set KNOWLEDGE_DOCUMENTS_URL to one of its own"
        )


def enqueue(
    connection: Connection,
    batch_id: int,
    documents: Mapping[int, str],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
    priority: int,
    reuse: bool = False,
) -> Enqueued:
    """Give every cell that has no row yet one, in the caller's transaction.

    Parameters
    ----------
    documents
        The file name that processors are told for each `docs.id`.
    prompts, connections
        As a sealed configuration lists them.
    priority
        From 1 to 100: the batch's share of the deliveries, relative to other batches.
    reuse
        Take the results that other batches have for the same questions about the same documents.

    Raises
    ------
    ContentsGone
        A document is not stored any more; the transaction must be rolled back.
    """
    details = [json.dumps({key: c[key] for key in CONNECTION_DETAILS}) for c in connections]
    parameters = {
        "batch_id": batch_id,
        "documents": arrays.of_numbers(documents),
        "file_names": arrays.of_texts(documents.values()),
        "prompts": [p["id"] for p in prompts],
        "connections": [c["id"] for c in connections],
        "details": details,
        **_places(batch_id, priority),
    }
    # The first time, which is nearly always, nothing can be there that would have to be looked up.
    again = connection.execute(_HAS_ROWS, {"batch_id": batch_id}).scalar_one()
    try:
        reused = 0
        if reuse:
            connection.execute(_KEEP_ANSWERED, _asked(batch_id, prompts, connections))
        if reuse and (questions := _same_questions(connection, batch_id, prompts, connections)):
            connection.execute(MORE_MEMORY)
            take = _REUSE_MISSING if again else _REUSE_ALL
            reused = connection.execute(take, {**parameters, **questions}).rowcount
        added = 0
        if again or reused < len(documents) * len(prompts) * len(connections):
            enqueue_rest = _ENQUEUE_MISSING if again or reused else _ENQUEUE_ALL
            added = connection.execute(enqueue_rest, parameters).rowcount
    except IntegrityError as error:
        if getattr(error.orig, "pgcode", None) != FOREIGN_KEY_VIOLATION:
            raise
        raise ContentsGone from None
    if added or reused:
        connection.execute(_COUNT_QUEUED, {"batch_id": batch_id, "rows": added, "reused": reused})
        connection.execute(_REQUEUE_AS, {"batch_id": batch_id, "word": "QUEUED"})
    return Enqueued(added, reused)


def reusable(
    connection: Connection,
    batch_id: int,
    documents: Sequence[int],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> list[Reusable]:
    """What `enqueue` with `reuse` would take from which batches for these `docs.id`."""
    questions = _same_questions(connection, batch_id, prompts, connections)
    if not questions:
        return []
    connection.execute(MORE_MEMORY)
    parameters = {"batch_id": batch_id, "documents": arrays.of_numbers(documents), "file_names": "{}"}
    return [Reusable(*row) for row in connection.execute(_REUSABLE, {**parameters, **questions})]


def queued_cells(
    connection: Connection,
    batch_id: int,
    documents: Sequence[int],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> tuple[int, int, int]:
    """How many current rows a batch has for these documents, how many for others, and how many are reused."""
    wanted, rows, reused = connection.execute(
        _QUEUED_CELLS,
        {
            "batch_id": batch_id,
            "documents": arrays.of_numbers(documents),
            "prompts": [p["id"] for p in prompts],
            "connections": [c["id"] for c in connections],
        },
    ).one()
    return wanted, rows - wanted, reused


def tally_rows(
    connection: Connection,
    batch_id: int,
    documents: Sequence[int],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> list[RowTally]:
    """Count a batch's cells, those that were set aside too, against the `docs.id` that it would have."""
    rows = connection.execute(
        _TALLY,
        {
            "batch_id": batch_id,
            "documents": arrays.of_numbers(documents),
            "prompts": [p["id"] for p in prompts],
            "connections": [c["id"] for c in connections],
        },
    )
    return [RowTally(row[0], Outcome(row[1]), *row[2:]) for row in rows]


def withdraw_others(connection: Connection, batch_id: int, documents: Sequence[int]) -> int:
    """Set the rows of a batch aside that are not for these `docs.id`, and take back those that are.

    Rows that wait are closed when they are set aside. Nothing is deleted. Returns how many rows changed.
    """
    return connection.execute(
        _WITHDRAW_OTHERS, {"batch_id": batch_id, "documents": arrays.of_numbers(documents)}
    ).rowcount


def hold_free(connection: Connection, batch_id: int) -> int:
    """Hold those of a batch's waiting rows that nobody has locked; waits for nobody. Returns how many."""
    return connection.execute(_HOLD_FREE, {"batch_id": batch_id}).rowcount


def close_free(connection: Connection, batch_id: int, reason: str) -> int:
    """Close those of a batch's waiting and held rows that nobody has locked; waits for nobody.

    Running rows that go back to the queue from now on are closed too, unless one goes back just now. Returns
    how many were closed.
    """
    connection.execute(_REQUEUE_AS_F_IF_FREE, {"batch_id": batch_id})
    return connection.execute(_CLOSE_FREE, {"batch_id": batch_id, "reason": reason}).rowcount


def has_waiting(connection: Connection, batch_id: int) -> bool:
    """Whether any row of a batch waits or is held."""
    return bool(connection.execute(_HAS_WAITING, {"batch_id": batch_id}).scalar_one())


def hold(connection: Connection, batch_id: int) -> int:
    """Hold a batch's waiting rows, so that no processor takes them; returns how many.

    Running rows that go back to the queue from now on are held too.
    """
    connection.execute(_REQUEUE_AS_IF_WANTED, {"batch_id": batch_id, "word": "PAUSED"})
    return connection.execute(_HOLD, {"batch_id": batch_id}).rowcount


def release(connection: Connection, batch_id: int, priority: int) -> int:
    """Queue a batch's held rows again, as if they were queued now; returns how many."""
    connection.execute(_REQUEUE_AS_IF_WANTED, {"batch_id": batch_id, "word": "QUEUED"})
    return connection.execute(_RELEASE, {"batch_id": batch_id, **_places(batch_id, priority)}).rowcount


def close(connection: Connection, batch_id: int, reason: str) -> int:
    """Close a batch's waiting and held rows as failed; running ones may finish. Returns how many.

    Running rows that go back to the queue from now on are closed too.
    """
    connection.execute(_REQUEUE_AS, {"batch_id": batch_id, "word": "F"})
    return connection.execute(_CLOSE, {"batch_id": batch_id, "reason": reason}).rowcount


def requeue(connection: Connection, batch_id: int, outcomes: Sequence[Outcome], priority: int) -> int:
    """Queue a new attempt for each cell whose current result is one of some; returns how many.

    Earlier attempts stay as they are.
    """
    parameters = {"batch_id": batch_id, "outcomes": list(outcomes), **_places(batch_id, priority)}
    added = connection.execute(_REQUEUE, parameters).rowcount
    if added:
        connection.execute(_REQUEUE_AS, {"batch_id": batch_id, "word": "QUEUED"})
    return added


def requeue_returning(connection: Connection, batch_id: int, documents: Sequence[int], priority: int) -> int:
    """Queue a new attempt for each cell that was closed when its document left, and whose document returns.

    `documents` are the `docs.id` of the batch. Call `withdraw_others` afterwards, in the same transaction.
    Returns how many were queued.
    """
    parameters = {"batch_id": batch_id, "documents": arrays.of_numbers(documents)}
    added = connection.execute(_REQUEUE_RETURNING, {**parameters, **_places(batch_id, priority)}).rowcount
    if added:
        connection.execute(_REQUEUE_AS, {"batch_id": batch_id, "word": "QUEUED"})
    return added


def fulfilled_attempts(connection: Connection, batch_id: int, request: str) -> int | None:
    """How many new attempts a request for a batch has queued; None where it was not fulfilled yet."""
    found: int | None = connection.scalar(_FULFILLED, {"batch_id": batch_id, "request": request})
    return found


def fulfil_request(connection: Connection, batch_id: int, request: str, new_attempts: int) -> None:
    """Record, in the transaction that queues the attempts, that a request is fulfilled.

    The primary key keeps a second transaction from fulfilling it too.
    """
    connection.execute(_FULFIL, {"batch_id": batch_id, "request": request, "new_attempts": new_attempts})


def forget_requests(connection: Connection, days: int) -> int:
    """Forget requests older than `days`, whose runs nobody retries any more; returns how many."""
    return connection.execute(_FORGET_REQUESTS, {"days": days}).rowcount


def tidy(connection: Connection) -> int:
    """Return rows whose lease is over to the queue, and bring rows that were left behind to its head.

    Claims do so too where they find less than they want. Returns how many rows changed.
    """
    return int(connection.execute(_TIDY).scalar_one())


def count_rows(connection: Connection, batch_id: int) -> int:
    """How many rows a batch has in the queue, all attempts counted."""
    return int(connection.execute(_ROWS, {"batch_id": batch_id}).scalar_one())


def _same_questions(
    connection: Connection,
    batch_id: int,
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> dict[str, str]:
    """Where other batches have the questions of a configuration, as parameters; empty where none has any."""
    rows = connection.execute(_SAME_QUESTIONS, _asked(batch_id, prompts, connections)).all()
    columns = [arrays.of_numbers(column) for column in zip(*rows, strict=True)]
    return dict(zip(_QUESTION_COLUMNS, columns, strict=True)) if rows else {}


def _asked(
    batch_id: int, prompts: Sequence[dict[str, Any]], connections: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {"batch_id": batch_id, "prompts": json.dumps(prompts), "connections": json.dumps(connections)}


def _places(batch_id: int, priority: int) -> dict[str, int]:
    """The distance between rows of a batch, and a shift that keeps batches from sharing places."""
    step = STEP // priority
    return {"step": step, "shift": batch_id * 7919 % step}
