"""Puts an archived batch back into both databases, as it was.

All that can be refused is refused before anything is written. An installation that does not know the
batch gets to know it as archived first. What follows goes the way of `archiving` backwards: the files,
then the rows in one transaction, then the word that they are here. Killed anywhere, asking again, for
the restore or for the archive, makes it good.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from doceval_pipeline.archives.checking import Checked, check
from doceval_pipeline.archives.format import (
    ATTEMPTS,
    BATCH,
    DOCS,
    FILES,
    HISTORY,
    PROGRESS,
    REPORT,
    newer,
)
from doceval_pipeline.archives.reading import Archive, open_archive
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.report_files import keep_report, report_name, report_path
from doceval_pipeline.batches.staging import number_lock
from doceval_pipeline.batches.storing import Progress
from doceval_pipeline.doc_eval import restored as configuration
from doceval_pipeline.doc_eval.batches import batch_by_id, partition_key
from doceval_pipeline.documents.reading import encode
from doceval_pipeline.errors import ArchiveError, BatchStateError
from doceval_pipeline.knowledge import restored
from doceval_pipeline.knowledge.bulk_load import ContentArrived, NewDocument, copy_documents
from doceval_pipeline.knowledge.counts import recount
from doceval_pipeline.knowledge.queue import count_rows
from doceval_pipeline.knowledge.responses import digest
from doceval_pipeline.knowledge.restored import MissingContent
from doceval_pipeline.migrations.rows import reserve_ids
from doceval_pipeline.migrations.upgrade import HEADS

# Each further try finds what another process stored in between.
MOST_TRIES = 20


@dataclass(frozen=True)
class Restored:
    """What came back of which batch, from which file; `documents_stored` are those that were not here."""

    batch_id: int
    path: Path
    sha256: str
    rows: int
    documents: int
    documents_stored: int
    files: int


def restore(databases: Databases, path: Path, checking: Progress, storing: Progress) -> Restored:
    """Bring an archived batch back, into the installation that archived it or into another one.

    Parameters
    ----------
    path
        The archive. A bare name is looked for in the installation's folder of archives too.
    checking, storing
        Told how far the reading of the file is, and then the storing of its documents.

    Raises
    ------
    ArchiveError, BatchStateError, DatabaseError
        ArchiveError where the file is not what it should be, or does not fit in here; BatchStateError
        where the batch is not archived. Nothing was written then.
    """
    path = _find(databases, path)
    with open_archive(path) as archive:
        _require_known_schema(archive)
        checked = check(archive, checking)
        batch_id = archive.manifest.batch
        with database_errors(), number_lock(databases, batch_id) as connection:
            _make_known(databases, connection, archive, checked)
            _reserve_ids(databases, checked)
            stored, new_digest = _put_back(databases, connection, archive, storing)
            with databases.knowledge.connect() as knowledge:
                rows = count_rows(knowledge, batch_id)
            if rows != checked.attempts:
                raise ArchiveError(
                    f"{partition_key(batch_id)}: {rows} of {checked.attempts} rows are in the queue after "
                    "commit: somebody changed them meanwhile; restore it again"
                )
            _put_back_report(databases, connection, archive, new_digest)
        return Restored(batch_id, path, archive.sha256(), rows, checked.documents, stored, checked.files)


def _find(databases: Databases, path: Path) -> Path:
    in_archives = databases.settings.archives / path.name
    return in_archives if not path.exists() and path.name == str(path) and in_archives.exists() else path


def _require_known_schema(archive: Archive) -> None:
    for schema, revision in HEADS.items():
        found = archive.manifest.schemas.get(schema.value, "")
        if found > revision:
            raise newer(archive.name, f"schema {schema.value} {found}")


def _make_known(databases: Databases, connection: Connection, archive: Archive, checked: Checked) -> None:
    """Let the installation hold this very batch as archived, or refuse."""
    content = archive.whole(BATCH).decode()
    batch = json.loads(content)["batch"]
    number, sha256 = batch["id"], archive.sha256()
    with connection.begin():
        if configuration.is_same_batch(connection, batch):
            _require_its_archive(connection, archive, sha256)
        else:
            file, when = Path(archive.name).name, archive.manifest.archived_at
            configuration.register_batch(connection, content, file, when, sha256)
            configuration.put_back_observations(connection, archive.lines(PROGRESS), archive.lines(HISTORY))
        with databases.knowledge.connect() as knowledge:
            restored.require_free_number(knowledge, number, batch["config_sha256"], checked.attempts)


def _require_its_archive(connection: Connection, archive: Archive, sha256: str) -> None:
    batch = batch_by_id(connection, archive.manifest.batch)
    if batch.archived_at is None:
        raise BatchStateError(
            f"{batch.key} is not archived: its rows are here, and nothing is to be restored"
        )
    if batch.archive_sha256 != sha256:
        raise ArchiveError(
            f"{archive.name} is not the file that {batch.key} was archived as: restore {batch.archive_file}, "
            "or an unchanged copy of it"
        )


def _reserve_ids(databases: Databases, checked: Checked) -> None:
    """Keep the ids of the archive out of the hands of others; one lock at a time."""
    largest = {"docs": checked.largest_document, "llm_responses": checked.largest_attempt}
    for table, number in largest.items():
        with databases.knowledge.begin() as knowledge:
            reserve_ids(knowledge, table, number)


def _put_back(
    databases: Databases, connection: Connection, archive: Archive, progress: Progress
) -> tuple[int, str | None]:
    """Put the contents, the rows and the files back.

    Returns how many contents were stored, and the digest of the results where it is another one now,
    because documents have other ids.
    """
    with connection.begin():
        published = configuration.member(connection, archive.whole(BATCH).decode(), "published")
    for _ in range(MOST_TRIES):
        try:
            with databases.knowledge.begin() as knowledge:
                missing = restored.read_docs(knowledge, archive.lines(DOCS))
                copy_documents(knowledge, _documents(archive, missing, progress), under_ids=True)
                moved = restored.finish_docs(knowledge)
                restored.read_attempts(knowledge, archive.lines(ATTEMPTS))
                restored.put_back_rows(knowledge, archive.manifest.batch)
                recount(knowledge, archive.manifest.batch)
                restored.put_back_config(knowledge, published)
                # Taken before anybody else can change a row.
                new_digest = digest(knowledge, archive.manifest.batch) if moved else None
                # Committed first, as archiving removes it last: files without rows are known to be left over.
                _put_back_files(connection, archive, moved)
            return len(missing), new_digest
        except ContentArrived:
            continue
    raise ArchiveError(
        f"{partition_key(archive.manifest.batch)}: other processes kept storing the same documents at the "
        "same time: restore it again when they are done"
    )


def _put_back_files(connection: Connection, archive: Archive, moved: dict[int, int]) -> None:
    with connection.begin():
        configuration.put_back_files(
            connection,
            archive.manifest.batch,
            _members(archive, "document"),
            _members(archive, "in_batch"),
            moved,
        )


def _members(archive: Archive, name: str) -> Iterator[bytes]:
    for row in archive.rows(FILES):
        yield json.dumps(row[name]).encode()


def _documents(archive: Archive, missing: list[MissingContent], progress: Progress) -> Iterator[NewDocument]:
    size = 0
    progress(0, len(missing), 0)
    for done, content in enumerate(missing, start=1):
        pieces = (encode(piece) for piece in archive.document(content.sha256, content.size))
        yield NewDocument(
            content.sha256, content.size, content.content_type, content.doc_type, pieces, content.id
        )
        size += content.size
        progress(done, len(missing), size)


def _put_back_report(
    databases: Databases, connection: Connection, archive: Archive, new_digest: str | None
) -> None:
    """Say that the rows are here again, and put the report where the installation keeps reports."""
    report, batch_id = archive.whole(REPORT), archive.manifest.batch
    with connection.begin():
        name = configuration.open_again(connection, batch_id, new_digest, report_name(batch_id, report))
    if name is not None and not report_path(databases, name).exists():
        keep_report(databases, batch_id, report)
