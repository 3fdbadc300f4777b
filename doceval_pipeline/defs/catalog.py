"""Metadata for Dagster's asset catalog: tables with their columns, code versions, owners, source code.

The columns are listed in the order of the databases; a test compares both.
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

# Increase one only if the asset stores something else for the same input: Dagster then shows every earlier
# materialization as out of sync.
CODE_VERSIONS = {
    "batch_config_snapshot": "1",
    "document_assignment": "1",
    "encoded_documents": "1",
    "queue_rows": "1",
    "completion_report": "1",
    "leaderboard": "2",
    "series": "1",
    "audit": "1",
}


@dataclass(frozen=True)
class Table:
    """A table that an asset writes: its database, name, and columns as (name, type, description)."""

    database: tuple[str, str, str]
    name: str
    columns: Sequence[tuple[str, str, str]]

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata that the catalog shows."""
        columns = [dg.TableColumn(name, type_, description) for name, type_, description in self.columns]
        return {
            "dagster/table_name": f"{self.database[2]}.public.{self.name}",
            "dagster/column_schema": dg.TableSchema(columns),
        }

    @property
    def tags(self) -> dict[str, str]:
        """A tag with the name of the database."""
        return {"doceval/database": self.database[2]}


_RESPONSES = (
    ("id", "bigint", "Id of the queue row."),
    ("batch_id", "integer", "Batch: batches.id in doc_eval."),
    ("document_id", "bigint", "Document: docs.id."),
    ("prompt_id", "integer", "Prompt, from the sealed snapshot in batch_configs."),
    ("connection_id", "integer", "Connection, from the sealed snapshot in batch_configs."),
    (
        "attempt",
        "integer",
        "1 for the first attempt at the evaluation, increased by 1 for each further attempt.",
    ),
    (
        "status",
        "text",
        "QUEUED, PAUSED, or set by a processor: P while it runs, S for success, F for failure.",
    ),
    (
        "connection_details",
        "jsonb",
        "How to reach the model. Contains the name of the key's environment variable, never the key.",
    ),
    ("task_id", "text", "Task id of the processor."),
    ("started_processing_at", "timestamp with time zone", "Time at which a processor started."),
    ("completed_processing_at", "timestamp with time zone", "Time at which a processor finished."),
    ("response_text", "text", "Response of the model."),
    ("response_json", "text", "Response as JSON, as written by the processor."),
    ("response_time_ms", "integer", "Response time of the model in milliseconds."),
    ("error_message", "text", "Error message of a failed evaluation."),
    ("overall_score", "double precision", "Score from 0 to 100. NULL means that there is no score."),
    ("input_tokens", "integer", "Number of input tokens."),
    ("output_tokens", "integer", "Number of output tokens."),
    ("time_taken_seconds", "double precision", "Processing time in seconds."),
    ("tokens_per_second", "double precision", "Tokens per second, as computed by the processor."),
    ("timestamp", "timestamp with time zone", "Time at which the processor wrote the result."),
    ("created_at", "timestamp with time zone", "Time at which the row was queued."),
    (
        "withdrawn_at",
        "timestamp with time zone",
        "Time since which the document no longer belongs to the batch.",
    ),
    ("file_name", "text", "Path of the file relative to its folder when the row was queued."),
    ("queue_position", "bigint", "Position in the queue while the row waits."),
    ("lease_token", "uuid", "Token of the last claim."),
    ("lease_expires_at", "timestamp with time zone", "Time at which the lease of the row expires."),
    ("deliveries", "integer", "Number of claims of the row."),
    ("worker", "text", "Name of the processor that claimed the row last."),
    ("superseded_at", "timestamp with time zone", "Time since which a later attempt exists."),
    (
        "impossible_numbers",
        "text[]",
        "Columns whose impossible values were removed, such as negative tokens.",
    ),
    ("not_before", "timestamp with time zone", "Time before which a waiting row is not handed out."),
    ("uncounted", "integer", "Number of deliveries that do not count towards the limit of five."),
    ("deferred", "boolean", "Whether not_before keeps the row out of the queue."),
    ("reused_from", "bigint", "Row from which this result was reused instead of asking the model again."),
    ("reused_batch_id", "integer", "Batch of that row; 0 if unknown."),
    ("is_answer", "boolean", "Whether other batches may reuse the result."),
)
BATCH_CONFIGS = Table(
    KNOWLEDGE,
    "batch_configs",
    (
        ("batch_id", "integer", "Batch: batches.id in doc_eval."),
        ("config", "jsonb", "Sealed snapshot: folders, connections, and prompts with their texts."),
        ("sha256", "text", "SHA-256 of the snapshot as canonical JSON."),
        ("created_at", "timestamp with time zone", "Time at which the snapshot was sealed."),
        ("requeue_as", "text", "Status that a running row gets when it is requeued."),
    ),
)
BATCH_DOCUMENTS = Table(
    DOC_EVAL,
    "batch_documents",
    (
        ("batch_id", "integer", "Batch: batches.id."),
        ("document_id", "bigint", "File: documents.id, which has its path."),
        ("state", "text", "ASSIGNED, STAGED, SKIPPED or REJECTED."),
        ("reason", "text", "Reason why the file was skipped or rejected."),
        ("file_size", "bigint", "Size in bytes."),
        ("sha256", "text", "SHA-256 of the stored bytes."),
        ("content_type", "text", "MIME type, determined from the bytes, not from the file name."),
        ("doc_type", "text", "File extension in lower case."),
        (
            "knowledge_document_id",
            "bigint",
            "docs.id in KnowledgeDocuments, set once the document is stored.",
        ),
        ("etag", "text", "Version of an object on object storage; empty for a file on disk."),
        ("modified_ns", "bigint", "Time of that version, in nanoseconds since 1970."),
    ),
)
DOCS = Table(
    KNOWLEDGE,
    "docs",
    (
        ("id", "bigint", "Id of the document."),
        ("document_id", "text", "'sha256:' followed by the digest."),
        ("sha256", "text", "SHA-256 of the document's bytes."),
        ("content", "text", "Document in canonical base64: standard alphabet, padded, without line breaks."),
        ("content_type", "text", "MIME type, determined from the bytes, not from a file name."),
        ("doc_type", "text", "Extension of the first file with these bytes, in lower case."),
        ("file_size", "bigint", "Size in bytes before encoding."),
        ("encoding", "text", "Always base64."),
        ("created_at", "timestamp with time zone", "Time at which the document was first stored."),
    ),
)
LLM_RESPONSES = Table(KNOWLEDGE, "llm_responses", _RESPONSES)
# One row per evaluation, its newest attempt.
CURRENT_LLM_RESPONSES = Table(KNOWLEDGE, "current_llm_responses", _RESPONSES)
TABLES = (BATCH_CONFIGS, BATCH_DOCUMENTS, DOCS, LLM_RESPONSES, CURRENT_LLM_RESPONSES)


def row_count(rows: int) -> dict[str, int]:
    """The number of rows of one partition, as the metadata that the catalog shows."""
    return {"dagster/partition_row_count": rows}


# Source code references are a preview feature of Dagster, of which users need no warning.
@suppress_dagster_warnings
def with_catalog_metadata(
    assets: Iterable[dg.AssetsDefinition | dg.AssetSpec], settings: Settings
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets with owners, the locations of their tables, and references to their source code."""
    owners, uris = _owners(settings), _uris(settings)

    def complete(spec: dg.AssetSpec) -> dg.AssetSpec:
        uri = uris.get(spec.tags.get("doceval/database", ""))
        metadata: Mapping[str, Any] = {} if uri is None else {"dagster/uri": uri}
        return spec.replace_attributes(owners=owners, metadata={**spec.metadata, **metadata})

    # The return type includes kinds of assets that this project does not use.
    referenced: Iterable[Any] = dg.with_source_code_references(list(assets))
    return list(dg.map_asset_specs(complete, referenced))


def _owners(settings: Settings) -> Sequence[str]:
    """The configured owners; if they are invalid, none and a warning in the log.

    `doceval up` rejects invalid owners, but they are no reason to stop a running pipeline.
    """
    try:
        return settings.owners
    except ConfigurationError as error:
        logging.getLogger(__name__).warning(str(error))
        return ()


def _uris(settings: Settings) -> dict[str, str]:
    """The URL of each database by its name, without user, password and options."""
    uris = {}
    for database in (DOC_EVAL, KNOWLEDGE):
        url = make_url(database_url(settings, database))
        socket = url.query.get("host")
        shown = URL.create("postgresql", host=url.host, port=url.port, database=url.database)
        uris[database[2]] = shown.render_as_string() + ("" if url.host or not socket else f"?host={socket}")
    return uris
