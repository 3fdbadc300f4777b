"""Corruptions in the queue, by invariant."""

from doceval_pipeline_tests.batches.invariants.corruptions.corruption import (
    CELL,
    DOCUMENT,
    REUSED,
    ROW,
    THE_CELL,
    THE_ROW,
    Corruption,
)

CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "cells-are-expected": (
        Corruption(
            "reprocessed",
            "SELECT 'expected_cells'",
            "doceval stage {id}",
            doc_eval="UPDATE batches SET expected_cells = expected_cells + 1 WHERE id = {id}",
        ),
    ),
    "cells-are-complete": (
        Corruption(
            "running",
            f"SELECT 'docs.id ' || document_id FROM llm_responses WHERE id = {ROW}",
            "doceval stage {id}",
            knowledge=f"DELETE FROM llm_responses WHERE id = {ROW}",
        ),
    ),
    "rows-have-content": (
        Corruption(
            "running",
            "SELECT 'llm_responses.id ' || id FROM llm_responses "
            f"WHERE batch_id = {{id}} AND document_id = {DOCUMENT} ORDER BY id",
            "backup",
            knowledge=f"DELETE FROM docs WHERE id = {DOCUMENT}",
        ),
    ),
    "rows-are-of-the-batch": (
        Corruption(
            "running",
            "SELECT 'docs.id ' || (SELECT min(document_id) FROM llm_responses WHERE batch_id <> {id})",
            "doceval stage {id}",
            knowledge="UPDATE llm_responses SET document_id = "
            f"(SELECT min(document_id) FROM llm_responses WHERE batch_id <> {{id}}) WHERE id = {ROW}",
        ),
    ),
    "rows-are-of-the-choice": (
        Corruption(
            "running",
            f"SELECT 'prompt 4711 and connection ' || connection_id FROM llm_responses WHERE id = {ROW}",
            "find the program",
            knowledge=f"UPDATE llm_responses SET prompt_id = 4711 WHERE id = {ROW}",
        ),
        Corruption(
            "running",
            f"SELECT format('prompt %s and connection 4711', prompt_id) FROM llm_responses WHERE id = {ROW}",
            "find the program",
            knowledge=f"UPDATE llm_responses SET connection_id = 4711 WHERE id = {ROW}",
        ),
    ),
    "rows-are-of-a-batch": (
        Corruption(
            "saved",
            "SELECT 'llm_responses'",
            "another doc_eval",
            doc_eval="DELETE FROM batch_folders WHERE batch_id = {id}; DELETE FROM batch_prompts "
            "WHERE batch_id = {id}; DELETE FROM batch_connections WHERE batch_id = {id}; "
            "DELETE FROM batches WHERE id = {id}",
            knowledge="INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, "
            "connection_details) SELECT {id}, min(id), 1, 1, '{{}}' FROM docs",
        ),
    ),
    "details-are-sealed": (
        Corruption(
            "running",
            THE_ROW,
            "batch_configs",
            knowledge="UPDATE llm_responses SET connection_details = connection_details || "
            f'\'{{{{"api_key": "topsecret"}}}}\' WHERE id = {ROW}',
        ),
    ),
    "attempts-are-in-order": (
        Corruption(
            "running",
            THE_CELL,
            "recount_responses({id})",
            knowledge=f"UPDATE llm_responses SET attempt = 2 WHERE id = {ROW}",
        ),
        Corruption(
            "running",
            THE_CELL,
            "recount_responses({id})",
            knowledge=f"UPDATE llm_responses SET superseded_at = now() WHERE id = {ROW}",
        ),
        Corruption(
            "reprocessed",
            f"SELECT format('document %s, prompt %s, connection %s', {CELL}) FROM llm_responses r "
            "WHERE r.batch_id = {id} AND r.attempt = 2 ORDER BY r.document_id, r.connection_id",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses SET superseded_at = NULL WHERE batch_id = {id} AND attempt = 1",
        ),
        Corruption(
            "reprocessed",
            f"SELECT format('document %s, prompt %s, connection %s', {CELL}) FROM llm_responses r "
            "WHERE r.batch_id = {id} AND r.attempt = 2 ORDER BY r.document_id, r.connection_id",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses r SET superseded_at = CASE WHEN r.attempt = 2 THEN now() END "
            "FROM llm_responses second WHERE r.batch_id = {id} AND second.attempt = 2 "
            f"AND (r.batch_id, {CELL}) "
            f"= (second.batch_id, {CELL.replace('r.', 'second.')})",
        ),
    ),
    "counts-are-kept": (
        Corruption(
            "running",
            "SELECT 'waiting evaluations'",
            "recount_responses({id})",
            knowledge="UPDATE response_counts SET waiting = waiting + 1 WHERE batch_id = {id}",
        ),
    ),
    "reused-is-its-origin": (
        *(
            Corruption(
                "reusing",
                f"SELECT 'llm_responses.id ' || {REUSED}",
                "doceval reprocess {id} --all",
                knowledge=f"{change} WHERE id = {REUSED}",
            )
            for change in (
                "UPDATE llm_responses SET overall_score = 1",
                "UPDATE llm_responses SET document_id = (SELECT min(document_id) FROM llm_responses)",
                "UPDATE llm_responses r SET reused_from = (SELECT min(o.id) FROM llm_responses o "
                "WHERE o.batch_id = r.reused_batch_id AND o.document_id = r.document_id "
                "AND o.overall_score = r.overall_score AND o.connection_id <> r.connection_id)",
            )
        ),
    ),
    "questions-are-noted": (
        *(
            Corruption("reusing", "SELECT 'batch_questions'", "batch_id = {id}", knowledge=change)
            for change in (
                "DELETE FROM batch_questions WHERE batch_id = {id} AND prompt_id = "
                "(SELECT min(prompt_id) FROM batch_questions WHERE batch_id = {id})",
                "INSERT INTO batch_questions VALUES ({id}, 4711, 1, repeat('0', 64))",
                "UPDATE batch_questions SET digest = repeat('0', 64) WHERE batch_id = {id}",
            )
        ),
        Corruption(
            "reusing",
            "SELECT 'batch_questions'",
            "DELETE FROM batch_questions",
            doc_eval="UPDATE batches SET is_foreign = true WHERE id = {id}",
        ),
    ),
}
