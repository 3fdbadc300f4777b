"""Corruptions in what was chosen and sealed, and the installation itself, by invariant."""

from dataclasses import replace

from sqlalchemy import make_url

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.batches.invariants.corruptions.corruption import Corruption
from doceval_pipeline_tests.batches.invariants.installation import Installation


def _go_by_another_address(installation: Installation) -> Databases:
    # Under another address, the embedded server counts as one of your own.
    settings = installation.databases.settings
    embedded = make_url(EmbeddedServer(settings.home).url("KnowledgeDocuments"))
    url = str(embedded.update_query_dict({"host": f"{embedded.query['host']}/."}))
    return open_databases(replace(settings, knowledge_documents_url=url))


CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "sealed-bytes-stand": (
        Corruption(
            "running",
            "SELECT 'config_snapshot'",
            "backup of doc_eval",
            doc_eval="UPDATE batches SET config_snapshot = replace(config_snapshot::text, ',', ', ')::json "
            "WHERE id = {id}",
        ),
    ),
    "same-configuration": (
        Corruption(
            "running",
            "SELECT 'batch_configs'",
            "doceval stage {id}",
            knowledge="DELETE FROM batch_configs WHERE batch_id = {id}",
        ),
        Corruption(
            "reprocessed",
            "SELECT 'batch_configs'",
            "another program",
            knowledge="UPDATE batch_configs SET config = config - 'version' WHERE batch_id = {id}",
        ),
        Corruption(
            "reprocessed",
            "SELECT 'batch_configs'",
            "another program",
            knowledge="UPDATE batch_configs SET sha256 = repeat('0', 64) WHERE batch_id = {id}",
        ),
    ),
    "choice-is-sealed": (
        Corruption(
            "running",
            "SELECT 'batches'",
            "restore in doc_eval",
            doc_eval="UPDATE batches SET description = 'another' WHERE id = {id}",
        ),
        Corruption(
            "running",
            "SELECT 'batches'",
            "restore in doc_eval",
            doc_eval="UPDATE batches SET margin = 3 WHERE id = {id}",
        ),
        Corruption(
            "running",
            "SELECT 'batches'",
            "restore in doc_eval",
            doc_eval="DELETE FROM batch_prompts WHERE batch_id = {id} "
            "AND prompt_id = (SELECT max(id) FROM prompts)",
        ),
        Corruption(
            "running",
            "SELECT 'batches'",
            "restore in doc_eval",
            doc_eval="DELETE FROM batch_connections WHERE batch_id = {id}",
        ),
        Corruption(
            "running",
            "SELECT 'batches'",
            "restore in doc_eval",
            doc_eval="UPDATE folders SET folder_path = folder_path || '/other' WHERE id = "
            "(SELECT folder_id FROM batch_folders WHERE batch_id = {id})",
        ),
    ),
    "no-key-in-connections": (
        Corruption(
            "running",
            "SELECT 'connection model-1'",
            "api_key_env",
            doc_eval='UPDATE connections SET connection_config = \'{{"api_key": "topsecret"}}\' '
            "WHERE name = 'model-1'",
        ),
    ),
    "no-key-is-published": (
        Corruption(
            "running",
            "SELECT 'batch_configs, connection model-0'",
            "api_key_env",
            knowledge="UPDATE batch_configs SET config = jsonb_set(config, '{{connections,0,base_url}}', "
            "'\"https://me:topsecret@example.com\"') WHERE batch_id = {id}",
        ),
    ),
    "doc-eval-is-current": (
        Corruption(
            "running",
            "SELECT 'DOC_EVAL_URL'",
            "doceval init",
            doc_eval="UPDATE doceval_doc_eval_version SET version_num = '9' || version_num",
            reported_in="doc_eval",
        ),
    ),
    "knowledge-documents-is-current": (
        Corruption(
            "running",
            "SELECT 'KNOWLEDGE_DOCUMENTS_URL'",
            "doceval init",
            knowledge="UPDATE doceval_knowledge_version SET version_num = '9' || version_num",
        ),
    ),
    "no-superuser": (
        Corruption(
            "running",
            "SELECT 'KNOWLEDGE_DOCUMENTS_URL'",
            "doceval init --roles",
            operation=_go_by_another_address,
        ),
    ),
}
