"""What Dagster's catalog says of the assets: tables with their columns, code versions, owners, source code.

Columns are listed as the databases have them; a test compares both.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._utils.warnings import suppress_dagster_warnings
from sqlalchemy import URL, make_url

from doceval_pipeline.batches.databases import DOC_EVAL, KNOWLEDGE, database_url
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings

# Raised only when the asset would store something else for the same input: every batch that was materialized
# before is then shown as out of sync.
CODE_VERSIONS = {
    "batch_config_snapshot": "1",
    "document_assignment": "1",
    "encoded_documents": "1",
    "queue_rows": "1",
    "completion_report": "1",
    "leaderboard": "1",
    "series": "1",
    "audit": "1",
}


@dataclass(frozen=True)
class Table:
    """A table that an asset fills: its database, name, and columns as (name, type, description)."""

    database: tuple[str, str, str]
    name: str
    columns: Sequence[tuple[str, str, str]]

    @property
    def metadata(self) -> dict[str, Any]:
        """What the catalog shows of it."""
        columns = [dg.TableColumn(name, type_, description) for name, type_, description in self.columns]
        return {
            "dagster/table_name": f"{self.database[2]}.public.{self.name}",
            "dagster/column_schema": dg.TableSchema(columns),
        }

    @property
    def tags(self) -> dict[str, str]:
        """In which database it is."""
        return {"doceval/database": self.database[2]}


_RESPONSES = (
    ("id", "bigint", "Number of the queue row."),
    ("batch_id", "integer", "The batch: batches.id in doc_eval."),
    ("document_id", "bigint", "The document: docs.id."),
    ("prompt_id", "integer", "The prompt, of the sealed configuration in batch_configs."),
    ("connection_id", "integer", "The connection, of the sealed configuration in batch_configs."),
    ("attempt", "integer", "1 for the first try at the evaluation, and one more each time it is repeated."),
    (
        "status",
        "text",
        "QUEUED, PAUSED, or a processor's word: P while it runs, S for success, F for failure.",
    ),
    (
        "connection_details",
        "jsonb",
        "How to reach the model, with the name of the key's variable, not the key.",
    ),
    ("task_id", "text", "A processor's own number."),
    ("started_processing_at", "timestamp with time zone", "When a processor began."),
    ("completed_processing_at", "timestamp with time zone", "When a processor ended."),
    ("response_text", "text", "What the model answered."),
    ("response_json", "text", "The answer as JSON, as the processor wrote it."),
    ("response_time_ms", "integer", "Milliseconds that the model took."),
    ("error_message", "text", "Why the evaluation failed."),
    ("overall_score", "double precision", "0 to 100; 0 is a score, NULL is none."),
    ("input_tokens", "integer", "Tokens that the model read."),
    ("output_tokens", "integer", "Tokens that the model wrote."),
    ("time_taken_seconds", "double precision", "Seconds that the processor took."),
    ("tokens_per_second", "double precision", "As the processor computed it."),
    ("timestamp", "timestamp with time zone", "When the processor wrote the result."),
    ("created_at", "timestamp with time zone", "When the row was queued."),
    ("withdrawn_at", "timestamp with time zone", "Since when the document is no longer one of the batch."),
    ("file_name", "text", "Path of the document below its folder when it was queued."),
    ("queue_position", "bigint", "Place in the queue while the row waits."),
    ("lease_token", "uuid", "Of the last claim."),
    ("lease_expires_at", "timestamp with time zone", "Until when the row is under a lease."),
    ("deliveries", "integer", "How often the row was claimed."),
    ("worker", "text", "What the last claim called itself."),
    ("superseded_at", "timestamp with time zone", "Since when there is a later attempt."),
    ("impossible_numbers", "text[]", "Columns whose impossible value was dropped, such as negative tokens."),
    ("not_before", "timestamp with time zone", "Until when a waiting row is not handed out."),
    ("uncounted", "integer", "How many deliveries do not count towards the five."),
    ("deferred", "boolean", "Whether the row is kept out of the queue because of not_before."),
    ("reused_from", "bigint", "The row whose result this is, where no model was asked again."),
    ("reused_batch_id", "integer", "The batch of that row; 0 where it is not known."),
    ("is_answer", "boolean", "Whether other batches may take the result."),
)
BATCH_CONFIGS = Table(
    KNOWLEDGE,
    "batch_configs",
    (
        ("batch_id", "integer", "The batch: batches.id in doc_eval."),
        ("config", "jsonb", "The snapshot: folders, connections, and prompts with their texts."),
        ("sha256", "text", "Of the snapshot as canonical JSON."),
        ("created_at", "timestamp with time zone", "When it was sealed."),
        ("requeue_as", "text", "Status of a running row that goes back to the queue."),
    ),
)
BATCH_DOCUMENTS = Table(
    DOC_EVAL,
    "batch_documents",
    (
        ("batch_id", "integer", "The batch: batches.id."),
        ("document_id", "bigint", "The file: documents.id, which has its path."),
        ("state", "text", "ASSIGNED, STAGED, SKIPPED or REJECTED."),
        ("reason", "text", "Why the file is skipped or rejected."),
        ("file_size", "bigint", "Bytes."),
        ("sha256", "text", "Of the bytes that were stored."),
        ("content_type", "text", "Read from the bytes, not from the file's name."),
        ("doc_type", "text", "The file's extension, in lower case."),
        ("knowledge_document_id", "bigint", "docs.id in KnowledgeDocuments, once the document is stored."),
    ),
)
DOCS = Table(
    KNOWLEDGE,
    "docs",
    (
        ("id", "bigint", "Number of the document."),
        ("document_id", "text", "sha256: and the digest."),
        ("sha256", "text", "Of the document's bytes."),
        ("content", "text", "Canonical base64: standard alphabet, padded, no line breaks."),
        ("content_type", "text", "Read from the bytes, not from a file's name."),
        ("doc_type", "text", "Extension of the first file, in lower case."),
        ("file_size", "bigint", "Bytes before encoding."),
        ("encoding", "text", "base64."),
        ("created_at", "timestamp with time zone", "When it was stored first."),
    ),
)
LLM_RESPONSES = Table(KNOWLEDGE, "llm_responses", _RESPONSES)
# One row per evaluation, its newest attempt.
CURRENT_LLM_RESPONSES = Table(KNOWLEDGE, "current_llm_responses", _RESPONSES)
TABLES = (BATCH_CONFIGS, BATCH_DOCUMENTS, DOCS, LLM_RESPONSES, CURRENT_LLM_RESPONSES)


def row_count(rows: int) -> dict[str, int]:
    """The rows of one partition, under the key that the catalog knows."""
    return {"dagster/partition_row_count": rows}


# References to source code are new in Dagster, which is nothing to warn users of.
@suppress_dagster_warnings
def catalogued(
    assets: Iterable[dg.AssetsDefinition | dg.AssetSpec], settings: Settings
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Assets with what only the installation knows: owners, where their tables are, where their code is."""
    owners, uris = _owners(settings), _uris(settings)

    def complete(spec: dg.AssetSpec) -> dg.AssetSpec:
        uri = uris.get(spec.tags.get("doceval/database", ""))
        metadata: Mapping[str, Any] = {} if uri is None else {"dagster/uri": uri}
        return spec.replace_attributes(owners=owners, metadata={**spec.metadata, **metadata})

    # Its type also names kinds of assets that are not among ours.
    referenced: Iterable[Any] = dg.with_source_code_references(list(assets))
    return list(dg.map_asset_specs(complete, referenced))


def _owners(settings: Settings) -> Sequence[str]:
    """The owners that are configured; none, and a line in the log, where they cannot be used.

    `doceval up` refuses them. A pipeline that runs already need not stop for a name.
    """
    try:
        return settings.owners
    except ConfigurationError as error:
        logging.getLogger(__name__).warning(str(error))
        return ()


def _uris(settings: Settings) -> dict[str, str]:
    """Where each database is, by its name, without user, password or options."""
    found = {}
    for database in (DOC_EVAL, KNOWLEDGE):
        url = make_url(database_url(settings, database))
        socket = url.query.get("host")
        shown = URL.create("postgresql", host=url.host, port=url.port, database=url.database)
        found[database[2]] = shown.render_as_string() + ("" if url.host or not socket else f"?host={socket}")
    return found
