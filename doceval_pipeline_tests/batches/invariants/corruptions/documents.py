"""Corruptions in contents, by invariant."""

from doceval_pipeline_tests.batches.invariants.corruptions.corruption import (
    DOCUMENT,
    FILE,
    THE_DOCUMENT,
    Corruption,
)

CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "files-are-stored": (
        Corruption(
            "running",
            THE_DOCUMENT,
            "doceval stage {id}",
            knowledge=f"DELETE FROM docs WHERE id = {DOCUMENT}",
        ),
        Corruption(
            "running",
            "SELECT 'docs.id ' || knowledge_document_id FROM batch_documents "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            "backup",
            doc_eval="UPDATE batch_documents SET sha256 = repeat('a', 64) "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            reported_in="doc_eval",
        ),
        Corruption(
            "running",
            "SELECT 'docs.id ' || knowledge_document_id FROM batch_documents "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            "backup",
            doc_eval="UPDATE batch_documents SET file_size = file_size + 1 "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            reported_in="doc_eval",
        ),
    ),
    "contents-decode": (
        Corruption(
            "running",
            THE_DOCUMENT,
            "backup",
            knowledge=f"UPDATE docs SET content = '!' || substr(content, 2) WHERE id = {DOCUMENT}",
        ),
        Corruption(
            "running",
            THE_DOCUMENT,
            "backup",
            knowledge=f"UPDATE docs SET content = 'A' || substr(content, 2) WHERE id = {DOCUMENT}",
        ),
    ),
    "nothing-left-to-store": (
        Corruption(
            "reprocessed",
            f"SELECT 'file ' || filepath FROM documents WHERE id = {FILE}",
            "doceval stage {id}",
            doc_eval="UPDATE batch_documents SET state = 'ASSIGNED' "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            reported_in="doc_eval",
        ),
    ),
}
