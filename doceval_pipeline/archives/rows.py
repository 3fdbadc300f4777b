"""The rows of an archive: their columns, and the bounds of each value.

The columns are those of the tables: a column that is missing here cannot be archived, and a column that is
missing in its table cannot be restored. Columns of later schemas may be absent.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from doceval_pipeline.archives.format import LARGEST_DOCUMENT, LARGEST_NUMBER, LARGEST_ROW_ID, SHA256
from doceval_pipeline.archives.json_text import is_long
from doceval_pipeline.archives.values import AnyMoment, Json, Moment, Named, ShortText, Text, Values
from doceval_pipeline.object_urls import is_object_url

_UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_WIDEST = 2**31 - 1
_MOST_CELLS = 10**15
# Limits of history sums: the largest documents and the longest times that the database stores.
LARGEST_SUM, LARGEST_MEASURE = 1e30, 1e10
_RESULT_COLUMNS = (
    "started_processing_at", "completed_processing_at", "timestamp", "response_time_ms", "input_tokens",
    "output_tokens", "time_taken_seconds", "tokens_per_second",
)  # fmt: skip


def _absolute(path: str) -> str:
    if not path.startswith("/") and not is_object_url(path) and not is_long(path):
        raise ValueError
    return path


Number = Annotated[int, Field(ge=1, le=LARGEST_NUMBER)]
RowId = Annotated[int, Field(ge=1, le=LARGEST_ROW_ID)]
Count = Annotated[int, Field(ge=0, le=_WIDEST)]
LongCount = Annotated[int, Field(ge=0, le=_MOST_CELLS)]
Size = Annotated[int, Field(ge=0, le=LARGEST_DOCUMENT)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# Bounds of the database for values written by processors.
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=SHA256)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]
Variable = Annotated[str, Field(pattern="^[A-Z_][A-Z0-9_]*$", max_length=64)]
Port = Annotated[int, Field(ge=1, le=65535)]
Patterns = Annotated[list[Text], Field(max_length=10_000)]
Price = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Margin = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Path = Annotated[Text, Field(min_length=1)]
Folder = Annotated[Path, AfterValidator(_absolute)]


class ArchivedPrices(Values):
    """Prices of a connection."""

    input_per_million: Price | None = None
    output_per_million: Price | None = None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"


class BatchRow(Values):
    """`batches`."""

    id: Number
    batch_number: Number
    batch_name: Named
    description: Text = ""
    status: Literal["COMPLETED", "FAILED", "FAILED_STAGING"]
    created_at: Moment
    started_at: Moment | None = None
    completed_at: Moment | None = None
    total_documents: Count = 0
    processed_documents: Count = 0
    meta_data: Json = Field(default_factory=dict)
    config_snapshot: Json
    config_sha256: Sha256
    include_patterns: Patterns = Field(default_factory=list)
    exclude_patterns: Patterns = Field(default_factory=list)
    expected_cells: Annotated[int, Field(ge=1, le=_MOST_CELLS)] | None = None
    stage_requested_at: Moment | None = None
    status_changed_at: Moment
    failure_reason: Text | None = None
    result_digest: Digest | None = None
    reported_digest: Digest | None = None
    cancelled_at: Moment | None = None
    stage_after: Moment | None = None
    archived_at: Moment | None = None
    archive_file: ShortText | None = None
    archive_sha256: Sha256 | None = None
    priority: Annotated[int, Field(ge=1, le=100)] = 10
    prices_at_completion: dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,9}$")], ArchivedPrices] | None = (
        None
    )
    report_file: Annotated[str, Field(pattern=r"^batch-[0-9]{6,10}-[0-9a-f]{16}\.html$")] | None = None
    reuse: Literal["finished", "nothing"] = "nothing"
    max_documents: Annotated[int, Field(ge=1)] | None = None
    max_cost: Price | None = None
    held_reason: Text | None = None
    is_of_changes: bool = False
    is_foreign: bool = False
    margin: Margin | None = None


class FolderRow(Values):
    """`folders`."""

    id: Number
    folder_path: Folder
    folder_name: Text
    created_at: Moment


class ConnectionRow(Values):
    """`connections`, with the names of provider and model."""

    id: Number
    name: Named
    provider_id: Number
    model_id: Number
    base_url: ShortText | None = None
    port_no: Port | None = None
    api_key_env: Variable | None = None
    connection_config: Json
    created_at: Moment
    updated_at: Moment
    prices: ArchivedPrices | None = None
    provider_type: Named
    model_name: Named


class PromptRow(Values):
    """`prompts`."""

    id: Number
    name: Named
    prompt_text: Path
    created_at: Moment
    updated_at: Moment
    threshold: Score | None = None
    weight: Weight | None = None


class PublishedRow(Values):
    """`batch_configs`."""

    batch_id: Number
    config: Json
    sha256: Sha256
    created_at: Moment
    requeue_as: Literal["QUEUED", "PAUSED", "F"] = "QUEUED"


class BatchMember(Values):
    """batch.json: the rows of the batch and of its selection."""

    batch: BatchRow
    published: PublishedRow
    folders: list[FolderRow]
    connections: list[ConnectionRow]
    prompts: list[PromptRow]


class SealedBatch(Values):
    """The batch in its sealed configuration."""

    id: Number
    name: Named
    description: Text
    metadata: Json
    include: Patterns
    exclude: Patterns
    margin: Margin | None = None

    @field_validator("margin")
    @classmethod
    def _is_absent_or_a_number(cls, value: float | None) -> float:
        # Defaults are not validated; no sealed configuration has null here.
        if value is None:
            raise ValueError
        return value


class SealedFolder(Values):
    """A folder in a sealed configuration."""

    id: Number
    path: Folder


class SealedConnection(Values):
    """A connection in a sealed configuration, and in each row of the queue."""

    id: Number
    name: Named
    provider_type: Named
    model_name: Named
    base_url: ShortText | None
    port_no: Port | None
    connection_config: Json
    api_key_env: Variable | None


class SealedPrompt(Values):
    """A prompt in a sealed configuration."""

    id: Number
    name: Named
    text: Path


class Config(Values):
    """A sealed configuration; docs/snapshot.md describes it."""

    version: Literal[1]
    batch: SealedBatch
    folders: list[SealedFolder]
    connections: list[SealedConnection]
    prompts: list[SealedPrompt]


class FileRow(Values):
    """`documents`."""

    id: RowId
    folder_id: Number
    filepath: Path
    filename: Text
    raw_path: Text
    created_at: Moment


class PlaceRow(Values):
    """`batch_documents`."""

    batch_id: Number
    document_id: RowId
    state: Literal["ASSIGNED", "STAGED", "SKIPPED", "REJECTED"]
    reason: Text | None = None
    file_size: LongCount | None = None
    sha256: Sha256 | None = None
    content_type: ShortText | None = None
    doc_type: Text | None = None
    knowledge_document_id: RowId | None = None
    etag: Text | None = None
    modified_ns: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None


class File(Values):
    """A file of the batch."""

    document: FileRow
    in_batch: PlaceRow


class Attempt(Values):
    """`llm_responses`."""

    id: RowId
    batch_id: Number
    document_id: RowId
    prompt_id: Number
    connection_id: Number
    attempt: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    status: Text = "QUEUED"
    connection_details: Json
    task_id: Text | None = None
    started_processing_at: Moment | None = None
    completed_processing_at: Moment | None = None
    response_text: Text | None = None
    response_json: Text | None = None
    response_time_ms: Count | None = None
    error_message: Text | None = None
    overall_score: Score | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    time_taken_seconds: Seconds | None = None
    tokens_per_second: Seconds | None = None
    timestamp: Moment | None = None
    # Can be written at a console, and no guard checks it.
    created_at: AnyMoment
    withdrawn_at: Moment | None = None
    file_name: Text | None = None
    queue_position: Annotated[int, Field(ge=-(2**60), le=2**60)] = 0
    lease_token: Annotated[str, Field(pattern=_UUID)] | None = None
    lease_expires_at: Moment | None = None
    deliveries: Count = 0
    worker: Text | None = None
    superseded_at: Moment | None = None
    impossible_numbers: list[Literal[_RESULT_COLUMNS]] | None = None  # type: ignore[valid-type] # a tuple of names
    not_before: Moment | None = None
    uncounted: Annotated[int, Field(ge=0, le=1000)] = 0
    deferred: bool = False
    reused_from: RowId | None = None
    # 0 if unknown, because it was a batch of another installation.
    reused_batch_id: Annotated[int, Field(ge=0, le=LARGEST_NUMBER)] | None = None
    is_answer: bool = True


class Doc(Values):
    """`docs` without content."""

    id: RowId
    document_id: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    sha256: Sha256
    content_type: ShortText
    doc_type: Text
    file_size: Size
    encoding: Literal["base64"] = "base64"
    created_at: Moment


class ProgressRow(Values):
    """`batch_progress`."""

    batch_id: Number
    observed_at: Moment
    waiting: LongCount
    running: LongCount
    paused: LongCount
    succeeded: LongCount
    failed: LongCount
    unknown: LongCount
    reused: LongCount = 0


class HistoryRow(Values):
    """`connection_history`."""

    batch_id: Number
    connection_id: Number
    measure: Literal["input_tokens", "output_tokens", "seconds"]
    cells: Annotated[int, Field(ge=1, le=_MOST_CELLS)]
    sum_x: Finite
    sum_xx: Finite
    sum_y: Finite
    sum_yy: Finite
    sum_xy: Finite
    max_y: Finite

    @property
    def is_possible(self) -> bool:
        """Whether the values are possible; sums over many such rows stay finite."""
        sums = (self.sum_x, self.sum_xx, self.sum_y, self.sum_yy, self.sum_xy)
        return all(0 <= value <= LARGEST_SUM for value in sums) and 0 <= self.max_y <= LARGEST_MEASURE
