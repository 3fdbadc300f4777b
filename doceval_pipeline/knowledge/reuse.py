"""Reuses results: finds what other batches answered to the same questions about the same documents."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import WRITTEN_WORD, Outcome
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql

# Locks the questions of other batches until their results are taken. Archiving such a batch waits, and then
# turns the new rows into answers. Both lock questions before documents.
_LOCK_QUESTIONS = text("""
    SELECT 1 FROM batch_questions
    WHERE batch_id <> :batch_id AND digest IN (
        SELECT question_digest(p, c)
        FROM jsonb_array_elements(CAST(:prompts AS jsonb)) AS p
        CROSS JOIN jsonb_array_elements(CAST(:connections AS jsonb)) AS c)
    ORDER BY batch_id, prompt_id, connection_id FOR KEY SHARE
""")
# A result that other batches may take: it succeeded, has a score, and no new attempt was requested. The same
# condition as in the index llm_responses_answers.
IS_ANSWER = f"""
    r.is_answer AND r.superseded_at IS NULL AND r.overall_score IS NOT NULL
    AND {has_outcome_sql(Outcome.SUCCEEDED, status="r.status")}
"""
# The questions of a batch in other batches.
_SAME_QUESTIONS = text("""
    SELECT b.batch_id AS their_batches, b.prompt_id AS their_prompts, b.connection_id AS their_connections,
           CAST(p ->> 'id' AS int) AS own_prompts, CAST(c ->> 'id' AS int) AS own_connections,
           c ->> 'provider_type' = 'simulation' AS are_simulations
    FROM jsonb_array_elements(CAST(:prompts AS jsonb)) AS p
    CROSS JOIN jsonb_array_elements(CAST(:connections AS jsonb)) AS c
    JOIN batch_questions b ON b.digest = question_digest(p, c) AND b.batch_id <> :batch_id
""")
# For each question that a batch asks about its documents, the newest result of another batch. Results of
# documents that left their batch count too: they were paid for. Simulated results do not answer questions to
# a real model. PostgreSQL plans with the lengths of the arrays. Results are joined last, because sorting
# their texts needs the disk.
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
    SELECT :batch_id, n.document_id, n.prompt_id, n.connection_id, c.details, n.file_name, 0,
           '{WRITTEN_WORD[Outcome.SUCCEEDED]}', e.overall_score, e.response_text, e.response_json,
           coalesce(e.worker, e.task_id), coalesce(e.reused_from, e.id),
           coalesce(e.reused_batch_id, e.batch_id), false
    FROM newest AS n
    JOIN llm_responses e ON e.id = n.id
    JOIN unnest(CAST(:connections AS int[]), CAST(:details AS jsonb[])) AS c(id, details)
        ON c.id = n.connection_id
"""
_REUSE_ALL = text(_REUSED)
_REUSE_MISSING = text(f"{_REUSED} WHERE {_HAS_NO_ROW}")
_REUSABLE = text(f"""
    {_NEWEST_RESULTS}
    SELECT n.connection_id, coalesce(e.reused_batch_id, e.batch_id) AS batch_id, count(*) AS cells,
           sum(docs.file_size)::bigint AS bytes
    FROM newest AS n
    JOIN llm_responses e ON e.id = n.id
    JOIN docs ON docs.id = n.document_id
    WHERE {_HAS_NO_ROW}
    GROUP BY 1, 2
""")
# With the default of 4 MB, sorting takes twice as long.
MORE_MEMORY = text("SET LOCAL work_mem = '64MB'")


@dataclass(frozen=True, slots=True)
class Reusable:
    """Evaluations of a connection that have no row yet, and whose results an earlier batch has.

    `bytes` is the sum of the sizes of their documents.
    """

    connection_id: int
    batch_id: int
    cells: int
    bytes: int


def find_reusable(
    connection: Connection,
    batch_id: int,
    documents: Sequence[int],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> list[Reusable]:
    """The results that `enqueue` with `reuse` would take for these `docs.id`, by batch and connection.

    If there are any, the caller's transaction has more memory from here on.
    """
    questions = _same_questions(connection, _asked(batch_id, prompts, connections))
    if not questions:
        return []
    connection.execute(MORE_MEMORY)
    parameters = {"batch_id": batch_id, "documents": arrays.of_numbers(documents), "file_names": "{}"}
    rows = connection.execute(_REUSABLE, {**parameters, **questions})
    return [Reusable(**row._mapping) for row in rows]


def lock_same_questions(
    connection: Connection,
    batch_id: int,
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> dict[str, str]:
    """Lock the questions of other batches, and find the same ones, for `take_results`; empty without any.

    If there are any, the caller's transaction has more memory from here on.
    """
    parameters = _asked(batch_id, prompts, connections)
    connection.execute(_LOCK_QUESTIONS, parameters)
    questions = _same_questions(connection, parameters)
    if questions:
        connection.execute(MORE_MEMORY)
    return questions


def take_results(
    connection: Connection, rows: Mapping[str, Any], questions: Mapping[str, str], *, only_missing: bool
) -> int:
    """Add a row with the newest result for each question that another batch has answered; returns how many.

    Parameters
    ----------
    rows
        The parameters of the rows to add, as `enqueue` passes them to its own statements.
    questions
        From `lock_same_questions`.
    only_missing
        Whether some evaluations of the batch may have rows already.
    """
    statement = _REUSE_MISSING if only_missing else _REUSE_ALL
    return connection.execute(statement, {**rows, **questions}).rowcount


def _same_questions(connection: Connection, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The same questions in other batches, as parameters; empty if no batch has any."""
    rows = connection.execute(_SAME_QUESTIONS, parameters).all()
    if not rows:
        return {}
    return {name: arrays.of_numbers(getattr(row, name) for row in rows) for name in _QUESTION_COLUMNS}


def _asked(
    batch_id: int, prompts: Sequence[dict[str, Any]], connections: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {"batch_id": batch_id, "prompts": json.dumps(prompts), "connections": json.dumps(connections)}
