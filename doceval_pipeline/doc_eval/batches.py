"""Finds and reads batches. Reads only."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, Engine, text

from doceval_pipeline import arrays
from doceval_pipeline.doc_eval.lifecycle import CLOSED, Status
from doceval_pipeline.errors import BatchStateError, UnknownBatch
from doceval_pipeline.names import normal, normal_in_sql

# As wide as the column.
LARGEST_NUMBER = 2**31 - 1
_COLUMNS = """
    id, batch_name, description, status, created_at, started_at, completed_at, meta_data,
    config_sha256, expected_cells, failure_reason, result_digest, reported_digest, cancelled_at,
    archived_at, archive_file, archive_sha256, report_file,
    priority, reuse, max_documents, max_cost, held_reason, margin
"""
_ALL = text(f"SELECT {_COLUMNS} FROM batches ORDER BY id")
_OVERVIEW = text(f"""
    SELECT {_COLUMNS} FROM batches
    WHERE status NOT IN ({", ".join(f"'{status}'" for status in CLOSED)}) AND archived_at IS NULL
       OR id IN (SELECT id FROM batches ORDER BY id DESC LIMIT :newest)
       OR id = ANY(CAST(:ids AS int[]))
    ORDER BY id
""")
_COUNT = text("SELECT count(*) FROM batches")
_IDS = text("SELECT id FROM batches ORDER BY id")
# A batch may commit after one with a higher id: the newest ones are therefore read again and again.
_NEWEST_AND_NEXT = text("""
    (SELECT id FROM batches WHERE id > :after ORDER BY id LIMIT :next)
    UNION
    (SELECT id FROM batches ORDER BY id DESC LIMIT :newest)
    ORDER BY id
""")
_IN_STATES = text(f"""
    SELECT {_COLUMNS} FROM batches WHERE status = ANY(:states) AND archived_at IS NULL ORDER BY id
""")
_BY_ID = text(f"SELECT {_COLUMNS} FROM batches WHERE id = :id")
_NAMES = text("SELECT id, batch_name FROM batches WHERE id = ANY(:ids)")
_THESE = text(f"SELECT {_COLUMNS} FROM batches WHERE id = ANY(CAST(:ids AS int[])) ORDER BY id")
_BY_IDS = text(f"""
    SELECT {_COLUMNS} FROM batches WHERE id = ANY(:ids) AND archived_at IS NULL ORDER BY id
""")
_NAMED = text(f"""
    SELECT {_COLUMNS} FROM batches
    WHERE id = ANY(CAST(:numbers AS int[])) OR {normal_in_sql("batch_name")} = ANY(CAST(:names AS text[]))
    ORDER BY id
""")
# A condition on `batches AS b`: closed, and without the report of its newest result.
IS_UNREPORTED = f"""
    b.status IN ({", ".join(f"'{status}'" for status in CLOSED)}) AND b.archived_at IS NULL
    AND b.result_digest IS DISTINCT FROM b.reported_digest
"""
_UNREPORTED = text(f"SELECT b.id, b.result_digest FROM batches b WHERE {IS_UNREPORTED} ORDER BY b.id")
_IDLE_STAGING = text("""
    SELECT id, status_changed_at < now() - make_interval(secs => :seconds) AS is_idle
    FROM batches WHERE status = 'STAGING' ORDER BY id
""")


@dataclass(frozen=True)
class BatchRecord:
    """A row of `batches`; times are UTC-aware.

    Since `archived_at`, the rows of the batch are in `archive_file`, which has the sha256 `archive_sha256`.
    `report_file` is the name of its newest report, which shows the results of `reported_digest`. A batch with
    more than `max_documents` documents, or a higher expected cost than `max_cost`, is PAUSED once it is
    queued, for `held_reason`, until a person resumes or cancels it. `margin` is in points.
    """

    id: int
    name: str
    description: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    metadata: dict[str, Any]
    config_sha256: str | None
    expected_cells: int | None
    failure_reason: str | None
    result_digest: str | None
    reported_digest: str | None
    cancelled_at: datetime | None = None
    archived_at: datetime | None = None
    archive_file: str | None = None
    archive_sha256: str | None = None
    report_file: str | None = None
    priority: int = 10
    reuse: str = "nothing"
    max_documents: int | None = None
    max_cost: float | None = None
    held_reason: str | None = None
    margin: float | None = None

    @property
    def key(self) -> str:
        """The partition key, such as `batch-000070`."""
        return partition_key(self.id)

    @property
    def state(self) -> str:
        """The batch's status for people, with the word "archived" for an archived batch."""
        return self.status.value if self.archived_at is None else f"{self.status.value}, archived"

    @property
    def is_limited(self) -> bool:
        """Whether it has a limit, so that it may be held once it is queued."""
        return self.max_documents is not None or self.max_cost is not None

    @property
    def held_notice(self) -> str | None:
        """A line on why it is held and what to do; None if it is not held, or if a person paused it."""
        if self.held_reason is None:
            return None
        return (
            f"held: {self.held_reason}; doceval resume {self.id} releases its evaluations, doceval cancel "
            f"{self.id} closes them"
        )

    def matches(self, pattern: str) -> bool:
        """Whether the batch's name or partition key matches a shell pattern, in any Unicode form."""
        return matches_pattern(self.id, self.name, pattern)

    def require_rows(self) -> None:
        """Refuse an archived batch, whose rows are in its archive.

        Raises
        ------
        BatchStateError
        """
        if self.archived_at is not None:
            raise BatchStateError(f"{self.key} is archived: run doceval restore {self.archive_file} first")

    def require_reprocessable(self) -> None:
        """Refuse a batch that is archived, was never staged, or is paused.

        Raises
        ------
        BatchStateError
        """
        self.require_rows()
        if self.status in (Status.SAVED, Status.FAILED_STAGING):
            raise BatchStateError(f"{self.key} is {self.status} and has nothing to reprocess: stage it first")
        if self.status is Status.PAUSED:
            raise BatchStateError(
                f"{self.key} is paused, but new rows would not be: run doceval resume {self.id} first"
            )


def partition_key(batch_id: int) -> str:
    """The name of a batch's partition; file names of its reports begin with it."""
    return f"batch-{batch_id:06d}"


def batch_id_of(key: str) -> int:
    """The batch number of a partition key.

    Raises
    ------
    UnknownBatch
        The key is not that of a batch number.
    """
    match = re.fullmatch(r"batch-(\d{6,10})", key)
    if match is None or partition_key(int(match[1])) != key or int(match[1]) > LARGEST_NUMBER:
        raise UnknownBatch(
            f"partition {key!r} has no batch: create batches with doceval apply or create_batch, which add "
            "their partitions"
        )
    return int(match[1])


def find_batch(engine: Engine, wanted: str) -> BatchRecord:
    """Find a batch by number, partition key or name.

    Raises
    ------
    UnknownBatch
        No batch matches, or several have this name.
    """
    with engine.connect() as connection:
        by_word, ambiguous = _named(connection, [wanted])
    if wanted not in by_word:
        raise ambiguous.get(wanted, _unknown(wanted))
    return by_word[wanted]


def find_batches(
    engine: Engine, wanted: Sequence[str], *, with_archived: bool
) -> tuple[list[BatchRecord], list[UnknownBatch]]:
    """Find batches by numbers, partition keys, names, and shell patterns of keys and names.

    Parameters
    ----------
    wanted
        Numbers, keys, names and patterns; a batch of exactly this name takes precedence over a pattern.
    with_archived
        Whether patterns match archived batches too; a number, key or name always does.

    Returns
    -------
    tuple[list[BatchRecord], list[UnknownBatch]]
        Each batch once, in the order of `wanted`; and an error for each word without a match.
    """
    with engine.connect() as connection:
        exact, ambiguous = _named(connection, wanted)
        patterns = [word for word in wanted if word not in exact and is_pattern(word)]
        every = list_batches(connection) if patterns else []
    batches: dict[int, BatchRecord] = {}
    unknown = []
    for word in wanted:
        if word in exact:
            batches.setdefault(exact[word].id, exact[word])
            continue
        if word in ambiguous:
            unknown.append(ambiguous[word])
            continue
        matches = [batch for batch in every if batch.matches(word)] if is_pattern(word) else []
        usable = [batch for batch in matches if with_archived or batch.archived_at is None]
        if not usable:
            unknown.append(_unknown(word) if not is_pattern(word) else _unmatched(word, len(matches)))
        for batch in usable:
            batches.setdefault(batch.id, batch)
    return list(batches.values()), unknown


def matches_pattern(batch_id: int, name: str, pattern: str) -> bool:
    """Whether a batch's name or partition key matches a shell pattern, in any Unicode form."""
    return fnmatchcase(normal(name), normal(pattern)) or fnmatchcase(partition_key(batch_id), pattern)


def is_pattern(word: str) -> bool:
    """Whether a word contains characters of a shell pattern."""
    return any(character in word for character in "*?[")


def _named(
    connection: Connection, wanted: Sequence[str]
) -> tuple[dict[str, BatchRecord], dict[str, UnknownBatch]]:
    """The batches that the words name by number, key or name, by word; and errors for ambiguous names."""
    numbers = {word: number for word in wanted if (number := _number(word)) is not None}
    names = {word: normal(word) for word in wanted if word not in numbers and _can_be_stored(word)}
    rows = connection.execute(_NAMED, {"numbers": list(numbers.values()), "names": list(names.values())})
    records = [_record(row) for row in rows]
    by_number = {record.id: record for record in records}
    by_word = {word: by_number[number] for word, number in numbers.items() if number in by_number}
    ambiguous = {}
    for word, name in names.items():
        same = [record for record in records if normal(record.name) == name]
        written_so = [record for record in same if record.name == word]
        if len(same) > 1 and not written_so:
            ambiguous[word] = _ambiguous(word, same)
        elif same:
            by_word[word] = (written_so or same)[0]
    return by_word, ambiguous


def _can_be_stored(word: str) -> bool:
    """Whether a word of the command line can be stored: bytes that are not UTF-8 arrive as surrogates."""
    return "\0" not in word and not any("\ud800" <= char <= "\udfff" for char in word)


def _number(word: str) -> int | None:
    match = re.fullmatch(r"(?:batch-)?0*(\d{1,10})", word)
    number = 0 if match is None else int(match[1])
    return None if match is None or number > LARGEST_NUMBER else number


def _unknown(word: str) -> UnknownBatch:
    return UnknownBatch(f"batch {word!r} does not exist: doceval list shows the batches")


def _ambiguous(name: str, same: Sequence[BatchRecord]) -> UnknownBatch:
    numbers = " and ".join(str(record.id) for record in same)
    return UnknownBatch(f"batches {numbers} have the name {name!r} in different Unicode forms: use a number")


def _unmatched(pattern: str, archived: int) -> UnknownBatch:
    if archived:
        return UnknownBatch(
            f"all batches that match {pattern!r} are archived ({archived}): doceval restore brings one back"
        )
    return UnknownBatch(f"no batch matches {pattern!r}: doceval list shows the batches")


def batch_by_id(connection: Connection, batch_id: int) -> BatchRecord:
    """Read one batch.

    Raises
    ------
    UnknownBatch
        No batch has this number.
    """
    row = connection.execute(_BY_ID, {"id": batch_id}).first()
    if row is None:
        raise UnknownBatch(
            f"partition {partition_key(batch_id)} has no batch: doc_eval has no batch {batch_id}; create "
            "batches with doceval apply or create_batch"
        )
    return _record(row)


def list_batches(connection: Connection) -> list[BatchRecord]:
    """All batches, oldest first."""
    return [_record(row) for row in connection.execute(_ALL)]


def batch_ids(connection: Connection) -> list[int]:
    """The ids of all batches, oldest first."""
    return list(connection.scalars(_IDS))


def count_batches(connection: Connection) -> int:
    """How many batches exist."""
    return int(connection.execute(_COUNT).scalar_one())


def overview(connection: Connection, newest: int, ids: Iterable[int] = ()) -> list[BatchRecord]:
    """All batches that are not closed, the `newest` ones, and the given ones, oldest first."""
    rows = connection.execute(_OVERVIEW, {"newest": newest, "ids": arrays.of_numbers(ids)})
    return [_record(row) for row in rows]


def newest_and_next(connection: Connection, after: int, newest: int, following: int) -> list[int]:
    """The ids of the `newest` batches, and of the first `following` ones after the id `after`, ascending."""
    parameters = {"after": after, "newest": newest, "next": following}
    return list(connection.scalars(_NEWEST_AND_NEXT, parameters))


def read_batches(connection: Connection, ids: Iterable[int]) -> list[BatchRecord]:
    """The given batches that exist, archived ones included, oldest first."""
    return [_record(row) for row in connection.execute(_THESE, {"ids": arrays.of_numbers(ids)})]


def batches_in(connection: Connection, states: Sequence[Status]) -> list[BatchRecord]:
    """The batches in any of the given states, oldest first, without archived ones."""
    return [_record(row) for row in connection.execute(_IN_STATES, {"states": [s.value for s in states]})]


def batches_by_ids(connection: Connection, ids: Iterable[int]) -> list[BatchRecord]:
    """The given batches that exist and are not archived, oldest first."""
    wanted = list(ids)
    return [_record(row) for row in connection.execute(_BY_IDS, {"ids": wanted})] if wanted else []


def batch_names(connection: Connection, ids: Iterable[int]) -> dict[int, str]:
    """The names of the given batches, archived ones included."""
    return {row.id: row.batch_name for row in connection.execute(_NAMES, {"ids": list(ids)})}


def unreported(connection: Connection) -> dict[int, str]:
    """Closed batches whose newest report does not show their newest result, with its digest."""
    return {row.id: row.result_digest for row in connection.execute(_UNREPORTED)}


def staging_batches(connection: Connection, idle_seconds: float) -> dict[int, bool]:
    """Batches in STAGING, each with whether its status has not changed for `idle_seconds`."""
    return {row.id: row.is_idle for row in connection.execute(_IDLE_STAGING, {"seconds": idle_seconds})}


def _record(row: Any) -> BatchRecord:
    return BatchRecord(
        id=row.id,
        name=row.batch_name,
        description=row.description,
        status=Status(row.status),
        created_at=row.created_at,
        started_at=row.started_at,
        completed_at=row.completed_at,
        metadata=row.meta_data,
        config_sha256=row.config_sha256,
        expected_cells=row.expected_cells,
        failure_reason=row.failure_reason,
        result_digest=row.result_digest,
        reported_digest=row.reported_digest,
        cancelled_at=row.cancelled_at,
        archived_at=row.archived_at,
        archive_file=row.archive_file,
        archive_sha256=row.archive_sha256,
        report_file=row.report_file,
        priority=row.priority,
        reuse=row.reuse,
        max_documents=row.max_documents,
        max_cost=row.max_cost,
        held_reason=row.held_reason,
        margin=row.margin,
    )
