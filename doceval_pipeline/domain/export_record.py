"""The records of an export: a result with all names, and the file of a document."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

Value = str | int | float | bool | datetime | None


class ExportRecord(NamedTuple):
    """One result. The fields are the columns of an export, in its order; docs/exports.md explains each.

    A tuple, because there may be millions. `knowledge` does not know the names of the batch, the connection
    and the prompt, nor the folder, the threshold and the price: `batches` adds them. Times are UTC-aware;
    texts may have any length.
    """

    partition_key: str
    batch_id: int
    batch_name: str
    config_sha256: str
    document_id: str
    sha256: str
    folder: str | None
    file: str | None
    files: int
    file_size: int
    content_type: str
    doc_type: str
    connection_id: int
    connection: str | None
    provider: str | None
    model: str | None
    prompt_id: int
    prompt: str | None
    attempt: int
    current: bool
    outcome: str
    status: str
    score: float | None
    response_text: str | None
    response_json: str | None
    error_message: str | None
    input_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    simulated: bool
    worker: str | None
    task_id: str | None
    deliveries: int
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    withdrawn_at: datetime | None
    reused_from_batch: int | None
    reused_from: int | None
    threshold: float | None
    below_threshold: bool | None
    cost: float | None
    currency: str | None


COLUMNS = ExportRecord._fields
"""The names of the columns of an export, in order."""


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """The first of the files that have a document's content, and the number of them in the batch."""

    document_id: int
    folder: str
    file: str
    files: int
