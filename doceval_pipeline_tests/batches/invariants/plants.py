"""Faults by invariant: what is changed behind the back of the pipeline, and what must be named for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.reporting import report_path
from doceval_pipeline.batches.staging import seal_batch
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.batches.invariants.installation import Installation
from doceval_pipeline_tests.conftest import Sample

ROW = "(SELECT min(id) FROM llm_responses WHERE batch_id = {id})"
DOCUMENT = "(SELECT min(document_id) FROM llm_responses WHERE batch_id = {id})"
FILE = "(SELECT min(document_id) FROM batch_documents WHERE batch_id = {id})"
LEASED = "(SELECT min(id) FROM llm_responses WHERE lease_expires_at IS NOT NULL)"
CELL = "r.document_id, r.prompt_id, r.connection_id"


@dataclass(frozen=True)
class Plant:
    """A fault in one batch.

    `doc_eval` and `knowledge` are statements, the latter past all triggers; `named` is a query, in
    KnowledgeDocuments unless `named_in` says otherwise, for what the audit must name as a whole, asked
    before; `mend` is a part of what it must say to do.
    """

    batch: str
    named: str
    mend: str
    doc_eval: str = ""
    knowledge: str = ""
    act: Callable[[Installation], Databases | None] | None = None
    named_in: str = "knowledge"

    def things(self, installation: Installation) -> list[str]:
        """What the audit must name."""
        batch = installation[self.batch]
        ask = batch.doc_eval if self.named_in == "doc_eval" else batch.knowledge
        return [row[0] for row in ask(self.named.format(id=batch.id))]

    def set(self, installation: Installation) -> Databases:
        """Do it; gives the installation as it is found from then on."""
        batch = installation[self.batch]
        if self.doc_eval:
            batch.doc_eval(self.doc_eval.format(id=batch.id))
        if self.knowledge:
            batch.plant(self.knowledge.format(id=batch.id))
        found = self.act(installation) if self.act is not None else None
        return found or installation.databases


def _remove_report(installation: Installation) -> None:
    batch: Sample = installation["reprocessed"]
    ((digest,),) = batch.doc_eval("SELECT reported_digest FROM batches WHERE id = :id")
    report_path(batch.databases, batch.id, digest).unlink()


def _begin_staging(installation: Installation) -> None:
    batch: Sample = installation["saved"]
    seal_batch(batch.databases, batch.id)
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '1 hour' WHERE id = :id")


def _remove_archive(installation: Installation) -> None:
    batch: Sample = installation["archived"]
    ((file,),) = batch.doc_eval("SELECT archive_file FROM batches WHERE id = :id")
    (batch.databases.settings.archives / file).unlink()


def _go_by_another_address(installation: Installation) -> Databases:
    # The same server under another address is not the embedded one to anybody.
    settings = installation.databases.settings
    url = EmbeddedServer(settings.home).url("KnowledgeDocuments") + "&connect_timeout=8"
    return open_databases(replace(settings, knowledge_documents_url=url))


def _without_the_constraint(assignment: str) -> Callable[[Installation], None]:
    def act(installation: Installation) -> None:
        with installation.databases.knowledge.begin() as connection:
            connection.execute(text("ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_lease_whole"))
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(f"UPDATE llm_responses SET {assignment} WHERE id = {LEASED}"))

    return act


THE_ROW = f"SELECT 'llm_responses.id ' || {ROW}"
THE_DOCUMENT = f"SELECT 'docs.id ' || {DOCUMENT}"
THE_CELL = f"""
    SELECT format('document %s, prompt %s, connection %s', {CELL}) FROM llm_responses r WHERE r.id = {ROW}
"""

PLANTS: dict[str, tuple[Plant, ...]] = {
    "sealed-bytes-stand": (
        Plant(
            "running",
            "SELECT 'config_snapshot'",
            "backup of doc_eval",
            doc_eval="UPDATE batches SET config_snapshot = replace(config_snapshot::text, ',', ', ')::json "
            "WHERE id = {id}",
        ),
    ),
    "same-configuration": (
        Plant(
            "running",
            "SELECT 'batch_configs'",
            "doceval stage {id}",
            knowledge="DELETE FROM batch_configs WHERE batch_id = {id}",
        ),
        Plant(
            "reprocessed",
            "SELECT 'batch_configs'",
            "another program",
            knowledge="UPDATE batch_configs SET config = config - 'version' WHERE batch_id = {id}",
        ),
        Plant(
            "reprocessed",
            "SELECT 'batch_configs'",
            "another program",
            knowledge="UPDATE batch_configs SET sha256 = repeat('0', 64) WHERE batch_id = {id}",
        ),
    ),
    "choice-is-sealed": (
        Plant(
            "running",
            "SELECT 'batches'",
            "put back in doc_eval",
            doc_eval="UPDATE batches SET description = 'another' WHERE id = {id}",
        ),
        Plant(
            "running",
            "SELECT 'batches'",
            "put back in doc_eval",
            doc_eval="DELETE FROM batch_prompts WHERE batch_id = {id} "
            "AND prompt_id = (SELECT max(id) FROM prompts)",
        ),
        Plant(
            "running",
            "SELECT 'batches'",
            "put back in doc_eval",
            doc_eval="DELETE FROM batch_connections WHERE batch_id = {id}",
        ),
        Plant(
            "running",
            "SELECT 'batches'",
            "put back in doc_eval",
            doc_eval="UPDATE folders SET folder_path = folder_path || '/other' WHERE id = "
            "(SELECT folder_id FROM batch_folders WHERE batch_id = {id})",
        ),
    ),
    "no-key-in-connections": (
        Plant(
            "running",
            "SELECT 'connection model-1'",
            "api_key_env",
            doc_eval='UPDATE connections SET connection_config = \'{{"api_key": "topsecret"}}\' '
            "WHERE name = 'model-1'",
        ),
    ),
    "no-key-is-published": (
        Plant(
            "running",
            "SELECT 'batch_configs, connection model-0'",
            "api_key_env",
            knowledge="UPDATE batch_configs SET config = jsonb_set(config, '{{connections,0,base_url}}', "
            "'\"https://me:topsecret@example.com\"') WHERE batch_id = {id}",
        ),
    ),
    "doc-eval-is-current": (
        Plant(
            "running",
            "SELECT 'DOC_EVAL_URL'",
            "doceval init",
            doc_eval="UPDATE doceval_doc_eval_version SET version_num = '9' || version_num",
            named_in="doc_eval",
        ),
    ),
    "knowledge-documents-is-current": (
        Plant(
            "running",
            "SELECT 'KNOWLEDGE_DOCUMENTS_URL'",
            "doceval init",
            knowledge="UPDATE doceval_knowledge_version SET version_num = '9' || version_num",
        ),
    ),
    "no-superuser": (
        Plant(
            "running",
            "SELECT 'KNOWLEDGE_DOCUMENTS_URL'",
            "doceval init --roles",
            act=_go_by_another_address,
        ),
    ),
    "files-are-stored": (
        Plant(
            "running",
            THE_DOCUMENT,
            "doceval stage {id}",
            knowledge=f"DELETE FROM docs WHERE id = {DOCUMENT}",
        ),
        Plant(
            "running",
            "SELECT 'docs.id ' || knowledge_document_id FROM batch_documents "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            "backup",
            doc_eval="UPDATE batch_documents SET sha256 = repeat('a', 64) "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            named_in="doc_eval",
        ),
        Plant(
            "running",
            "SELECT 'docs.id ' || knowledge_document_id FROM batch_documents "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            "backup",
            doc_eval="UPDATE batch_documents SET file_size = file_size + 1 "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            named_in="doc_eval",
        ),
    ),
    "contents-decode": (
        Plant(
            "running",
            THE_DOCUMENT,
            "backup",
            knowledge=f"UPDATE docs SET content = '!' || substr(content, 2) WHERE id = {DOCUMENT}",
        ),
        Plant(
            "running",
            THE_DOCUMENT,
            "backup",
            knowledge=f"UPDATE docs SET content = 'A' || substr(content, 2) WHERE id = {DOCUMENT}",
        ),
    ),
    "nothing-left-to-store": (
        Plant(
            "reprocessed",
            f"SELECT 'file ' || filepath FROM documents WHERE id = {FILE}",
            "doceval stage {id}",
            doc_eval="UPDATE batch_documents SET state = 'ASSIGNED' "
            f"WHERE batch_id = {{id}} AND document_id = {FILE}",
            named_in="doc_eval",
        ),
    ),
    "cells-are-expected": (
        Plant(
            "reprocessed",
            "SELECT 'expected_cells'",
            "doceval stage {id}",
            doc_eval="UPDATE batches SET expected_cells = expected_cells + 1 WHERE id = {id}",
        ),
    ),
    "cells-are-complete": (
        Plant(
            "running",
            f"SELECT 'docs.id ' || document_id FROM llm_responses WHERE id = {ROW}",
            "doceval stage {id}",
            knowledge=f"DELETE FROM llm_responses WHERE id = {ROW}",
        ),
    ),
    "rows-have-content": (
        Plant(
            "running",
            "SELECT 'llm_responses.id ' || id FROM llm_responses "
            f"WHERE batch_id = {{id}} AND document_id = {DOCUMENT} ORDER BY id",
            "backup",
            knowledge=f"DELETE FROM docs WHERE id = {DOCUMENT}",
        ),
    ),
    "rows-are-of-the-batch": (
        Plant(
            "running",
            "SELECT 'docs.id ' || (SELECT min(document_id) FROM llm_responses WHERE batch_id <> {id})",
            "doceval stage {id}",
            knowledge="UPDATE llm_responses SET document_id = "
            f"(SELECT min(document_id) FROM llm_responses WHERE batch_id <> {{id}}) WHERE id = {ROW}",
        ),
    ),
    "rows-are-of-the-choice": (
        Plant(
            "running",
            f"SELECT 'prompt 4711 and connection ' || connection_id FROM llm_responses WHERE id = {ROW}",
            "find out which program",
            knowledge=f"UPDATE llm_responses SET prompt_id = 4711 WHERE id = {ROW}",
        ),
        Plant(
            "running",
            f"SELECT format('prompt %s and connection 4711', prompt_id) FROM llm_responses WHERE id = {ROW}",
            "find out which program",
            knowledge=f"UPDATE llm_responses SET connection_id = 4711 WHERE id = {ROW}",
        ),
    ),
    "details-are-sealed": (
        Plant(
            "running",
            THE_ROW,
            "batch_configs",
            knowledge="UPDATE llm_responses SET connection_details = connection_details || "
            f'\'{{{{"api_key": "topsecret"}}}}\' WHERE id = {ROW}',
        ),
    ),
    "attempts-are-in-order": (
        Plant(
            "running",
            THE_CELL,
            "recount_responses({id})",
            knowledge=f"UPDATE llm_responses SET attempt = 2 WHERE id = {ROW}",
        ),
        Plant(
            "running",
            THE_CELL,
            "recount_responses({id})",
            knowledge=f"UPDATE llm_responses SET superseded_at = now() WHERE id = {ROW}",
        ),
        Plant(
            "reprocessed",
            f"SELECT format('document %s, prompt %s, connection %s', {CELL}) FROM llm_responses r "
            "WHERE r.batch_id = {id} AND r.attempt = 2 ORDER BY r.document_id, r.connection_id",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses SET superseded_at = NULL WHERE batch_id = {id} AND attempt = 1",
        ),
        Plant(
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
        Plant(
            "running",
            "SELECT 'waiting cells'",
            "recount_responses({id})",
            knowledge="UPDATE response_counts SET waiting = waiting + 1 WHERE batch_id = {id}",
        ),
    ),
}
PLANTS |= {
    "staging-goes-on": (Plant("saved", "SELECT 'status STAGING'", "doceval stage {id}", act=_begin_staging),),
    "closed-is-done": (
        Plant(
            "reprocessed",
            "SELECT 'llm_responses.id ' || max(id) FROM llm_responses WHERE batch_id = {id}",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses SET status = 'N' "
            "WHERE id = (SELECT max(id) FROM llm_responses WHERE batch_id = {id})",
        ),
    ),
    "verdict-is-true": (
        Plant(
            "reprocessed",
            "SELECT 'status FAILED'",
            "recount_responses({id})",
            doc_eval="UPDATE batches SET status = 'FAILED' WHERE id = {id}",
        ),
        Plant(
            "cancelled",
            "SELECT 'status COMPLETED'",
            "recount_responses({id})",
            doc_eval="UPDATE batches SET status = 'COMPLETED' WHERE id = {id}",
        ),
        Plant(
            "reprocessed",
            "SELECT 'status COMPLETED'",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses SET status = 'F' WHERE batch_id = {id}",
        ),
    ),
    "done-is-closed": (
        Plant(
            "reprocessed",
            "SELECT 'status ANALYZING'",
            "doceval up",
            doc_eval="UPDATE batches SET status = 'ANALYZING' WHERE id = {id}",
        ),
    ),
    "results-are-as-completed": (
        Plant(
            "reprocessed",
            "SELECT 'result_digest'",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses SET overall_score = 1 WHERE batch_id = {id}",
        ),
    ),
    "paused-is-held": (
        Plant(
            "paused",
            THE_ROW,
            "doceval pause {id}",
            knowledge=f"UPDATE llm_responses SET status = 'READY_TO_RETRY' WHERE id = {ROW}",
        ),
        Plant(
            "paused",
            "SELECT 'batch_configs.requeue_as'",
            "doceval pause {id}",
            knowledge="UPDATE batch_configs SET requeue_as = 'QUEUED' WHERE batch_id = {id}",
        ),
    ),
    "report-is-there": (
        Plant(
            "reprocessed",
            "SELECT 'reported_digest ' || reported_digest FROM batches WHERE id = {id}",
            "doceval report {id}",
            act=_remove_report,
            named_in="doc_eval",
        ),
    ),
    "leases-are-whole": (
        Plant(
            "running",
            f"SELECT 'llm_responses.id ' || {LEASED}",
            "lease_expires_at = NULL",
            knowledge=f"UPDATE llm_responses SET deliveries = 0 WHERE id = {LEASED}",
        ),
        Plant(
            "running",
            f"SELECT 'llm_responses.id ' || {LEASED}",
            "lease_expires_at = NULL",
            knowledge=f"UPDATE llm_responses SET started_processing_at = NULL WHERE id = {LEASED}",
        ),
        Plant(
            "running",
            f"SELECT 'llm_responses.id ' || {LEASED}",
            "lease_expires_at = NULL",
            act=_without_the_constraint("status = 'S'"),
        ),
        Plant(
            "running",
            f"SELECT 'llm_responses.id ' || {LEASED}",
            "lease_expires_at = NULL",
            act=_without_the_constraint("lease_token = NULL"),
        ),
    ),
    "deliveries-end": (
        Plant(
            "running",
            THE_ROW,
            "deliveries = 5",
            knowledge=f"UPDATE llm_responses SET deliveries = 6 WHERE id = {ROW}",
        ),
    ),
    "places-are-in-the-queue": (
        Plant(
            "running",
            "SELECT 'llm_responses.id ' || min(id) FROM llm_responses "
            "WHERE batch_id = {id} AND status = 'QUEUED'",
            "doceval pause {id}",
            knowledge="UPDATE llm_responses SET queue_position = 1000000000000000 WHERE id = "
            "(SELECT min(id) FROM llm_responses WHERE batch_id = {id} AND status = 'QUEUED')",
        ),
    ),
    "ended-rows-say-when": (
        Plant(
            "cancelled",
            "SELECT 'llm_responses.id ' || id FROM llm_responses "
            "WHERE batch_id = {id} AND status = 'F' ORDER BY id",
            "doceval reprocess {id} --failed",
            knowledge="UPDATE llm_responses SET completed_processing_at = NULL WHERE batch_id = {id}",
        ),
        *(
            Plant(
                "paused",
                THE_ROW,
                "doceval reprocess {id} --failed",
                knowledge=f"UPDATE llm_responses SET status = 'F', error_message = '{message}' "
                f"WHERE id = {ROW}",
            )
            for message in (
                "given up after 5 deliveries, the last of which failed",
                "the batch was cancelled, and the delivery failed",
            )
        ),
    ),
    "archived-is-gone": (
        Plant(
            "archived",
            "SELECT archive_file FROM batches WHERE id = {id}",
            "doceval archive {id}",
            doc_eval="INSERT INTO documents (id, folder_id, filepath, filename, raw_path) "
            "SELECT 4711, min(id), 'left', 'left', 'left' FROM folders; "
            "INSERT INTO batch_documents (batch_id, document_id, state) VALUES ({id}, 4711, 'ASSIGNED')",
            named_in="doc_eval",
        ),
        Plant(
            "archived",
            "SELECT archive_file FROM batches WHERE id = {id}",
            "doceval archive {id}",
            knowledge="INSERT INTO batch_configs VALUES ({id}, '{{}}', repeat('0', 64))",
            named_in="doc_eval",
        ),
    ),
    "archive-is-there": (
        Plant(
            "archived",
            "SELECT archive_file FROM batches WHERE id = {id}",
            "put a copy of",
            act=_remove_archive,
            named_in="doc_eval",
        ),
    ),
    "rows-are-of-a-batch": (
        Plant(
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
}
