"""Finds the batch that a batch is compared with, in its report and by `score_drift`. Changes nothing."""

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id

# So many of the newest batches with a connection and a prompt in common are searched for documents in common.
CANDIDATES = 50

_PREVIOUS_OCCURRENCE = text("""
    SELECT b.id
    FROM occurrences mine
    JOIN occurrences its ON its.recurring_id = mine.recurring_id AND its.due_at < mine.due_at
    JOIN batches b ON b.id = its.batch_id
    WHERE mine.batch_id = :batch_id AND b.status = 'COMPLETED' AND b.archived_at IS NULL
    ORDER BY its.due_at DESC LIMIT 1
""")
_PREVIOUS = text("""
    SELECT alike.id
    FROM (SELECT b.id FROM batches b
          WHERE b.id < :batch_id AND b.status = 'COMPLETED' AND b.archived_at IS NULL
            AND EXISTS (SELECT 1 FROM batch_connections mine JOIN batch_connections its USING (connection_id)
                        WHERE mine.batch_id = :batch_id AND its.batch_id = b.id)
            AND EXISTS (SELECT 1 FROM batch_prompts mine JOIN batch_prompts its USING (prompt_id)
                        WHERE mine.batch_id = :batch_id AND its.batch_id = b.id)
          ORDER BY b.id DESC LIMIT :candidates) AS alike
    WHERE EXISTS (SELECT 1 FROM batch_documents mine JOIN batch_documents its USING (knowledge_document_id)
                  WHERE mine.batch_id = :batch_id AND its.batch_id = alike.id)
    ORDER BY alike.id DESC LIMIT 1
""")
# The same connections and prompts to the last letter, whatever the folders and the batch are called.
_SAME_CONFIGURATION = text("""
    SELECT earlier.id FROM batches now
    JOIN batches earlier ON CASE WHEN CAST(:occurrence_before AS int) IS NULL THEN earlier.id < now.id
                                 ELSE earlier.id = :occurrence_before END
    WHERE now.id = :batch_id AND earlier.status = 'COMPLETED' AND earlier.archived_at IS NULL
      AND (earlier.config_snapshot -> 'connections')::jsonb = (now.config_snapshot -> 'connections')::jsonb
      AND (earlier.config_snapshot -> 'prompts')::jsonb = (now.config_snapshot -> 'prompts')::jsonb
    ORDER BY earlier.id DESC LIMIT 1
""")


def previous_batch(connection: Connection, batch_id: int) -> BatchRecord | None:
    """The newest earlier batch that is completed, not archived, and shares a document and a column.

    For an occurrence it is the newest earlier one of its series that is completed and not archived,
    whatever they share; only where there is none it is another batch.
    """
    parameters = {"batch_id": batch_id, "candidates": CANDIDATES}
    found = _occurrence_before(connection, batch_id)
    if found is None:
        found = connection.scalar(_PREVIOUS, parameters)
    return None if found is None else batch_by_id(connection, found)


def batch_of_same_configuration(connection: Connection, batch_id: int) -> int | None:
    """The newest earlier completed batch with the same sealed connections and prompts, not archived.

    For an occurrence it is the batch that its report compares with, or None if that has others.
    """
    before = _occurrence_before(connection, batch_id)
    found: int | None = connection.scalar(
        _SAME_CONFIGURATION, {"batch_id": batch_id, "occurrence_before": before}
    )
    return found


def _occurrence_before(connection: Connection, batch_id: int) -> int | None:
    found: int | None = connection.scalar(_PREVIOUS_OCCURRENCE, {"batch_id": batch_id})
    return found
