"""The records of an export: a result with all names, and the file of a document."""

from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter

Value = str | int | float | bool | datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """One result. The fields are the columns of an export, in its order; docs/exports.md explains each.

    The queue does not know the fields that have a default: the names of the batch, the file, the connection
    and the prompt are added later. Times are UTC-aware; texts may have any length.
    """

    partition_key: str = ""
    batch_id: int
    batch_name: str = ""
    config_sha256: str = ""
    document_id: str
    sha256: str
    folder: str | None = None
    file: str | None = None
    files: int = 0
    file_size: int
    content_type: str
    doc_type: str
    connection_id: int
    connection: str | None = None
    provider: str | None = None
    model: str | None = None
    prompt_id: int
    prompt: str | None = None
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

    def values(self) -> tuple[Value, ...]:
        """The values of all columns, in the order of `COLUMNS`."""
        values: tuple[Value, ...] = _values(self)
        return values


COLUMNS = tuple(field.name for field in fields(ExportRecord))
"""The names of the columns of an export, in order."""
_values = attrgetter(*COLUMNS)


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """The first of the files that have a document's content, and the number of them in the batch."""

    document_id: int
    folder: str
    file: str
    files: int
