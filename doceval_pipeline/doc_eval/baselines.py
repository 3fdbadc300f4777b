"""Finds the batches that others are compared with: in the report, by `score_drift` and on the leaderboard.

The report compares with the `latest_overlapping_batch`, `score_drift` with the `drift_baseline`.
"""

from collections.abc import Collection

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id

# At most this many of the newest batches that share a connection and a prompt are searched for shared
# documents.
CANDIDATES = 50

# A condition on `batches`: excludes samples of doceval try. A few documents are not a baseline for a whole
# batch, and would replace a better one.
_IS_WHOLE = "coalesce(jsonb_typeof({batch}.meta_data -> 'try' -> 'files_found'), '') <> 'number'"

_PREVIOUS_OCCURRENCE = text("""
    SELECT b.id
    FROM occurrences mine
    JOIN occurrences its ON its.recurring_id = mine.recurring_id AND its.due_at < mine.due_at
    JOIN batches b ON b.id = its.batch_id
    WHERE mine.batch_id = :batch_id AND b.status = 'COMPLETED' AND b.archived_at IS NULL
    ORDER BY its.due_at DESC LIMIT 1
""")
_LATEST_OVERLAPPING = text(f"""
    SELECT alike.id
    FROM (SELECT b.id FROM batches b
          WHERE b.id < :batch_id AND b.status = 'COMPLETED' AND b.archived_at IS NULL
            AND {_IS_WHOLE.format(batch="b")}
            AND EXISTS (SELECT 1 FROM batch_connections mine JOIN batch_connections its USING (connection_id)
                        WHERE mine.batch_id = :batch_id AND its.batch_id = b.id)
            AND EXISTS (SELECT 1 FROM batch_prompts mine JOIN batch_prompts its USING (prompt_id)
                        WHERE mine.batch_id = :batch_id AND its.batch_id = b.id)
          ORDER BY b.id DESC LIMIT :candidates) AS alike
    WHERE EXISTS (SELECT 1 FROM batch_documents mine JOIN batch_documents its USING (knowledge_document_id)
                  WHERE mine.batch_id = :batch_id AND its.batch_id = alike.id)
    ORDER BY alike.id DESC LIMIT 1
""")
# The sealed connections and prompts must be identical; folders and the name of the batch do not matter.
_DRIFT_BASELINE = text(f"""
    SELECT earlier.id FROM batches now
    JOIN batches earlier ON CASE WHEN CAST(:occurrence_before AS int) IS NULL THEN earlier.id < now.id
                                 ELSE earlier.id = :occurrence_before END
    WHERE now.id = :batch_id AND earlier.status = 'COMPLETED' AND earlier.archived_at IS NULL
      AND {_IS_WHOLE.format(batch="earlier")}
      AND (earlier.config_snapshot -> 'connections')::jsonb = (now.config_snapshot -> 'connections')::jsonb
      AND (earlier.config_snapshot -> 'prompts')::jsonb = (now.config_snapshot -> 'prompts')::jsonb
    ORDER BY earlier.id DESC LIMIT 1
""")
# Failed evaluations of a cancelled batch are not the model's fault.
_ARE_FINISHED = """
    status IN ('COMPLETED', 'FAILED') AND cancelled_at IS NULL AND archived_at IS NULL
    AND reported_digest = result_digest
"""
_FINISHED = text(f"SELECT id FROM batches WHERE {_ARE_FINISHED} ORDER BY id")
# By the server: 100,000 rows would cost a client 0.15 s and 30 MB.
_DIGEST_OF_FINISHED = text(f"""
    SELECT encode(sha256(convert_to(
        string_agg(id || '\\:' || result_digest, E'\\n' ORDER BY id), 'UTF8')), 'hex')
    FROM batches WHERE {_ARE_FINISHED}
""")
_OTHERS = text("SELECT count(*) FROM batches WHERE id <> ALL(:ids)")


def latest_overlapping_batch(connection: Connection, batch_id: int) -> BatchRecord | None:
    """The newest earlier completed batch that shares a document and a column, and is not archived.

    A sample that doceval try drew is left out. For an occurrence: the newest earlier completed one of its
    series that is not archived, whatever they share; another batch only if there is none.
    """
    parameters = {"batch_id": batch_id, "candidates": CANDIDATES}
    earlier_id = _occurrence_before(connection, batch_id)
    if earlier_id is None:
        earlier_id = connection.scalar(_LATEST_OVERLAPPING, parameters)
    return None if earlier_id is None else batch_by_id(connection, earlier_id)


def drift_baseline(connection: Connection, batch_id: int) -> int | None:
    """The newest earlier completed batch with identical sealed connections and prompts, not archived.

    A sample is left out. For an occurrence: the batch that its report compares with, or None if its
    connections or prompts differ.
    """
    before = _occurrence_before(connection, batch_id)
    baseline_id: int | None = connection.scalar(
        _DRIFT_BASELINE, {"batch_id": batch_id, "occurrence_before": before}
    )
    return baseline_id


def finished_batches(connection: Connection) -> list[int]:
    """Finished batches whose report is up to date, by id; cancelled and archived ones are left out."""
    return list(connection.scalars(_FINISHED))


def digest_of_finished(connection: Connection) -> str | None:
    """The sha256 of the ids of `finished_batches` and of their results' digests; None without any."""
    digest: str | None = connection.scalar(_DIGEST_OF_FINISHED)
    return digest


def count_other_batches(connection: Connection, batch_ids: Collection[int]) -> int:
    """How many batches exist besides the given ones."""
    return int(connection.execute(_OTHERS, {"ids": list(batch_ids)}).scalar_one())


def _occurrence_before(connection: Connection, batch_id: int) -> int | None:
    previous_id: int | None = connection.scalar(_PREVIOUS_OCCURRENCE, {"batch_id": batch_id})
    return previous_id
