"""The schema of an export: one record per result. docs/exports.md says what each column means."""

from datetime import datetime
from types import NoneType
from typing import NamedTuple, get_args, get_type_hints

# Grows when a column changes its meaning or its type, or goes; a new column at the end is no new version.
VERSION = 1

Value = str | int | float | bool | datetime | None


class Record(NamedTuple):
    """A result with everything around it. Times are in UTC and say so; texts may be of any length."""

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


def _type(hint: object) -> type:
    """What a column holds where it holds something."""
    (kind,) = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    return kind  # type: ignore[no-any-return] # hints of Record are plain types


TYPES: dict[str, type] = {name: _type(hint) for name, hint in get_type_hints(Record).items()}


def time_text(time: datetime) -> str:
    """A time in UTC as ISO 8601, always of the same length, so that it sorts as text."""
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
