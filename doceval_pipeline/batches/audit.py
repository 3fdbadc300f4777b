"""Holds both databases against what must be true of them. Read-only.

`check_*` answer for one batch and stand behind Dagster's asset checks; `violations` answers for the
whole installation and stands behind `doceval check`. Each says what is wrong and what to do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, make_url, text
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.archives.reading import open_archive
from doceval_pipeline.batches.databases import DOC_EVAL, KNOWLEDGE, Databases
from doceval_pipeline.batches.staging import is_being_staged
from doceval_pipeline.doc_eval import archived, batch_documents
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, list_batches, partition_key
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.knowledge import queue
from doceval_pipeline.knowledge.responses import count_cells, digest

_NOT_BASE64 = "22023"  # invalid_parameter_value
# Documents of a batch that are decoded and compared where not all are asked for.
SAMPLE = 50

_STAGED = text("""
    SELECT knowledge_document_id, min(sha256), min(file_size) FROM batch_documents
    WHERE batch_id = :batch_id AND state = 'STAGED'
    GROUP BY 1 ORDER BY random() LIMIT :sample
""")
# decode() raises on anything that is not base64. A pattern before it would cost more than the rest
# together, and fails on a content of more than 268,435,455 characters.
_BROKEN_CONTENTS = text("""
    SELECT staged.id FROM unnest(CAST(:ids AS bigint[]), CAST(:sha256s AS text[]), CAST(:sizes AS bigint[]))
        AS staged(id, sha256, size)
    LEFT JOIN docs ON docs.id = staged.id
    WHERE docs.sha256 IS DISTINCT FROM staged.sha256
       OR docs.file_size IS DISTINCT FROM staged.size
       OR encode(sha256(decode(docs.content, 'base64')), 'hex') IS DISTINCT FROM docs.sha256
    ORDER BY 1
""")
_IS_SUPERUSER = text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
_CONFIG_SHA = text("SELECT sha256 FROM batch_configs WHERE batch_id = :batch_id")
_UNKNOWN_BATCHES = text("""
    SELECT batch_id, count(*) FROM llm_responses WHERE batch_id <> ALL(CAST(:known AS int[]))
    GROUP BY 1 ORDER BY 1
""")


@dataclass(frozen=True)
class Finding:
    """What a check of one batch found: how much was checked, how much is wrong, and a sentence."""

    checked: int
    problems: int
    text: str


@dataclass(frozen=True)
class Violation:
    """Something that must not be, where, and what to do about it."""

    invariant: str
    batch: str
    problem: str
    mend: str


def check_round_trip(databases: Databases, batch_id: int, sample: int | None = SAMPLE) -> Finding:
    """Decode stored documents and compare their sha256 with that of the files that were read.

    Parameters
    ----------
    sample
        How many documents, drawn at random; None for all.
    """
    with databases.doc_eval.connect() as connection:
        rows = connection.execute(_STAGED, {"batch_id": batch_id, "sample": sample}).all()
    with databases.knowledge.connect() as connection:
        broken = _broken_contents(connection, rows)
    if broken:
        shown = ", ".join(str(number) for number in broken[:10])
        return Finding(len(rows), len(broken), f"docs.id {shown}: content is missing or is not what was read")
    return Finding(len(rows), 0, f"{len(rows)} documents decode to the bytes that were read")


def check_queue_complete(databases: Databases, batch_id: int) -> Finding:
    """Compare the current rows of a batch with its distinct documents x prompts x connections.

    Raises
    ------
    BatchStateError
        The batch is archived.
    """
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        batch.require_rows()
        documents = batch_documents.stored_ids(connection, batch_id)
        sealed = read_snapshot(connection, batch_id)
    prompts = sealed.config["prompts"] if sealed else []
    connections = sealed.config["connections"] if sealed else []
    expected = len(documents) * len(prompts) * len(connections)
    with databases.knowledge.connect() as knowledge:
        cells = queue.count_queued_cells(knowledge, batch_id, documents, prompts, connections)
    problems = abs(expected - cells) + abs(expected - (batch.expected_cells or 0))
    return Finding(expected, problems, f"{cells} of {expected} cells are in the queue")


def check_rows_have_documents(databases: Databases, batch_id: int) -> Finding:
    """Look for rows whose document is not stored, or is not one of the batch's."""
    with databases.doc_eval.connect() as connection:
        documents = batch_documents.stored_ids(connection, batch_id)
    with databases.knowledge.connect() as knowledge:
        rows = queue.count_rows(knowledge, batch_id)
        orphans, foreign = queue.count_orphans(knowledge, batch_id, documents)
    sentence = (
        f"of {rows} rows, {orphans} are without a document and {foreign} for a document of another batch"
    )
    return Finding(rows, orphans + foreign, sentence)


def violations(
    databases: Databases, every_document: bool, progress: Callable[[int, int], None]
) -> Iterator[Violation]:
    """Audit both databases.

    Parameters
    ----------
    every_document
        Decode every stored document instead of a sample of each batch, and read archives to their end.
    progress
        Told how many of how many batches are done.
    """
    with databases.doc_eval.connect() as connection:
        batches = list_batches(connection)
    yield from _superusers(databases)
    yield from _rows_without_batch(databases, batches)
    for done, batch in enumerate(batches):
        progress(done, len(batches))
        if batch.archived_at is not None:
            yield from _archived(databases, batch, every_document)
            continue
        if batch.status in (Status.SAVED, Status.FAILED_STAGING):
            continue
        if batch.status is Status.STAGING:
            yield from _abandoned_staging(databases, batch)
            continue
        yield from _config_differs(databases, batch)
        yield from _batch_findings(databases, batch, every_document)
        yield from _left_unstaged(databases, batch)
        yield from _closed_too_early(databases, batch)
    progress(len(batches), len(batches))


def _broken_contents(connection: Connection, rows: Sequence[Row[Any]]) -> list[int]:
    """The `docs.id` of contents that are missing, are no base64, or are not what their sha256 says.

    A statement that finds one that is no base64 ends there, so its rows are asked for in halves.
    """
    ids, sha256s, sizes = ([row[column] for row in rows] for column in range(3))
    try:
        with connection.begin():
            found = connection.scalars(_BROKEN_CONTENTS, {"ids": ids, "sha256s": sha256s, "sizes": sizes})
            return list(found)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != _NOT_BASE64:
            raise
    if len(rows) == 1:
        return ids
    half = len(rows) // 2
    return _broken_contents(connection, rows[:half]) + _broken_contents(connection, rows[half:])


def _superusers(databases: Databases) -> Iterator[Violation]:
    embedded = EmbeddedServer(databases.settings.home)
    for engine, (variable, _, name) in ((databases.doc_eval, DOC_EVAL), (databases.knowledge, KNOWLEDGE)):
        # The embedded server has one user, and nobody else can reach it.
        if engine.url == make_url(embedded.url(name)):
            continue
        with engine.connect() as connection:
            if connection.scalar(_IS_SUPERUSER):
                yield Violation(
                    "the pipeline is no superuser of a server of your own",
                    variable,
                    "its role is a superuser, for whom no grant counts",
                    "doceval init --roles, then connect as a member of doceval_stager",
                )


def _rows_without_batch(databases: Databases, batches: list[BatchRecord]) -> Iterator[Violation]:
    with databases.knowledge.connect() as connection:
        rows = connection.execute(_UNKNOWN_BATCHES, {"known": [batch.id for batch in batches]}).all()
    for batch_id, count in rows:
        yield Violation(
            "every queue row belongs to a batch",
            partition_key(batch_id),
            f"{count} rows of a batch that doc_eval does not know",
            "find out which program wrote them; KnowledgeDocuments may belong to another doc_eval",
        )


def _abandoned_staging(databases: Databases, batch: BatchRecord) -> Iterator[Violation]:
    if not is_being_staged(databases, batch.id):
        yield Violation(
            "a batch in STAGING is being staged",
            batch.key,
            "no process works on it",
            f"doceval stage {batch.id}",
        )


def _archived(databases: Databases, batch: BatchRecord, every_byte: bool) -> Iterator[Violation]:
    """An archived batch has its file, and nothing else; unless somebody is archiving or restoring it."""
    if is_being_staged(databases, batch.id):
        return
    with databases.doc_eval.connect() as connection:
        files = archived.count_files(connection, batch.id)
    with databases.knowledge.connect() as connection:
        rows = queue.count_rows(connection, batch.id)
        published = connection.scalar(_CONFIG_SHA, {"batch_id": batch.id}) is not None
    if (rows or files or published) and not is_being_staged(databases, batch.id):
        yield Violation(
            "an archived batch has no rows left",
            batch.key,
            f"{rows} rows in the queue and {files} files are left",
            f"doceval archive {batch.id} again, or doceval restore {batch.archive_file}",
        )
    problem = _archive_problem(databases, batch, every_byte)
    if problem is not None:
        yield Violation(
            "an archived batch has its archive",
            batch.key,
            problem,
            f"put a copy of {batch.archive_file} into {databases.settings.archives}",
        )


def _archive_problem(databases: Databases, batch: BatchRecord, every_byte: bool) -> str | None:
    try:
        with open_archive(databases.settings.archives / str(batch.archive_file)) as archive:
            other = archive.manifest.batch != batch.id or (
                every_byte and archive.sha256() != batch.archive_sha256
            )
    except ArchiveError as error:
        return str(error)
    return "the file is not the one that was written" if other else None


def _config_differs(databases: Databases, batch: BatchRecord) -> Iterator[Violation]:
    with databases.knowledge.connect() as connection:
        published = connection.scalar(_CONFIG_SHA, {"batch_id": batch.id})
    if published != batch.config_sha256:
        yield Violation(
            "both databases hold the same sealed configuration",
            batch.key,
            "batch_configs has none" if published is None else "batch_configs has another one",
            f"doceval stage {batch.id} writes a missing one; another one was written by another program",
        )


def _batch_findings(databases: Databases, batch: BatchRecord, every_document: bool) -> Iterator[Violation]:
    sample = None if every_document else SAMPLE
    for invariant, finding, mend in (
        (
            "every stored document decodes to the bytes that were read",
            check_round_trip(databases, batch.id, sample),
            "restore docs from a backup, or delete the rows and doceval stage the batch again",
        ),
        (
            "every cell has exactly one current row",
            check_queue_complete(databases, batch.id),
            f"doceval stage {batch.id} adds what is missing",
        ),
        (
            "every queue row has a document of its batch",
            check_rows_have_documents(databases, batch.id),
            "find out which program wrote these rows, and delete them",
        ),
    ):
        if finding.problems:
            yield Violation(invariant, batch.key, finding.text, mend)


def _left_unstaged(databases: Databases, batch: BatchRecord) -> Iterator[Violation]:
    with databases.doc_eval.connect() as connection:
        left = batch_documents.count_documents(connection, [batch.id])[batch.id].assigned
    if left:
        yield Violation(
            "a staged batch has no file left to store",
            batch.key,
            f"{left} files are assigned and not stored",
            f"doceval stage {batch.id}",
        )


def _closed_too_early(databases: Databases, batch: BatchRecord) -> Iterator[Violation]:
    if batch.status not in (Status.COMPLETED, Status.FAILED):
        return
    with databases.knowledge.connect() as connection:
        cells = _cells_open(connection, batch.id)
        current = digest(connection, batch.id)
    if cells:
        yield Violation(
            "a completed batch has no open cell",
            batch.key,
            f"{cells} cells are not done",
            "run doceval up: the sensor response_status opens it again within minutes",
        )
    elif current != batch.result_digest:
        yield Violation(
            "a completed batch was completed with the results it has",
            batch.key,
            "a processor changed results since",
            "run doceval up: the sensor response_status completes it again and writes a new report",
        )


def _cells_open(connection: Connection, batch_id: int) -> int:
    cells = count_cells(connection, [batch_id])[batch_id]
    return cells.rows - cells.done
