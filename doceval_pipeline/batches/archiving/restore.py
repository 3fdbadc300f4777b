"""Restores an archived batch into both databases, unchanged.

Archives are untrusted. The whole file is checked (`archives.checking`), then read into temporary tables with
the constraints of the databases. Until all of it has passed, nothing is written, no id is reserved and no
sequence moves. Users who restore an archive of another installation are shown its connections first, because
these name the hosts that documents and keys are sent to.

The steps then reverse those of `archive`: the files, the rows in one transaction, and the mark that the batch
is restored. If the process is killed anywhere, running the restore or the archive again completes it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection

from doceval_pipeline.archives import foreign
from doceval_pipeline.archives.checking import CheckedArchive, check
from doceval_pipeline.archives.format import ATTEMPTS, BATCH, DOCS, FILES, HISTORY, PROGRESS, newer
from doceval_pipeline.archives.reading import Archive, open_archive
from doceval_pipeline.batches.archiving.refused_rows import refused_rows
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.locks import number_lock
from doceval_pipeline.batches.results.report_files import find_report
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.doc_eval.archive import load as configuration
from doceval_pipeline.doc_eval.batches import batch_by_id, partition_key
from doceval_pipeline.doc_eval.definitions.apply import lock_definitions
from doceval_pipeline.doc_eval.definitions.schema import problem_of_connection
from doceval_pipeline.doc_eval.snapshot import require_no_key
from doceval_pipeline.documents.reading import encode
from doceval_pipeline.documents.walk import FOLDER_MARKER, UNREADABLE_NAME, display_name, is_below
from doceval_pipeline.errors import ArchiveError, BatchStateError, StagingError
from doceval_pipeline.knowledge.archive import load
from doceval_pipeline.knowledge.archive.load import MissingDocument
from doceval_pipeline.knowledge.digests import digest
from doceval_pipeline.knowledge.documents import DocumentArrived, NewDocument, copy_documents
from doceval_pipeline.knowledge.incremental_counts import recount
from doceval_pipeline.knowledge.queue import count_rows
from doceval_pipeline.migrations.rights import require_rights
from doceval_pipeline.migrations.rows import reserve_ids
from doceval_pipeline.migrations.upgrade import HEADS
from doceval_pipeline.names import normal, printable, refusal
from doceval_pipeline.portions import Progress

# Every further try finds documents that another process stored meanwhile.
MOST_TRIES = 20
NEW, DIFFERS = "new", "differs"
# Characters of an address or folder that are shown; a host name has at most 253.
LONGEST_SHOWN = 300
# Fields of an evaluation file by those of a sealed configuration.
_AS_DEFINED = {
    "name": "name",
    "provider": "provider_type",
    "model": "model_name",
    "base_url": "base_url",
    "port": "port_no",
    "api_key_env": "api_key_env",
    "config": "connection_config",
}


@dataclass(frozen=True)
class RestoredBatch:
    """A restored batch and its file; `documents_stored` counts documents that were missing before."""

    batch_id: int
    path: Path
    sha256: str
    rows: int
    documents: int
    documents_stored: int
    files: int


@dataclass(frozen=True)
class IncomingConnection:
    """A connection of an archive: where processors send documents, and the variable of the API key.

    `difference` is `new` if no connection of this name exists here, `differs` if one with other values
    exists, and None if the same connection exists.
    """

    name: str
    provider_type: str
    model_name: str
    base_url: str | None
    port_no: int | None
    api_key_env: str | None
    connection_config: dict[str, Any]
    difference: str | None

    @property
    def address(self) -> str:
        """Address for people: the URL, its host in ASCII, and the port if it is set separately."""
        address = shorten(self.base_url or "the provider's own address")
        host = urlsplit(self.base_url or "").hostname or ""
        if not host.isascii():
            address += f" ({_in_ascii(host)})"
        return printable(address if self.port_no is None else f"{address} port {self.port_no}")


@dataclass(frozen=True)
class IncomingArchive:
    """A checked archive that is still open, before anything of it is written.

    `is_own` is set if this installation wrote the file, proven by its sha256: its contents were here before.
    `is_foreign` is set if another installation created the batch, even if this one archived it since: its
    results are not reused here. `new_folders` are folders that no batch here has.
    """

    archive: Archive
    path: Path
    sha256: str
    checked: CheckedArchive
    is_own: bool
    is_foreign: bool
    connections: list[IncomingConnection]
    new_folders: list[str]

    @property
    def batch_id(self) -> int:
        """Id of the batch."""
        return self.archive.manifest.batch

    @property
    def unknown(self) -> list[IncomingConnection]:
        """Connections that must be accepted."""
        return [connection for connection in self.connections if connection.difference is not None]

    @property
    def must_be_accepted(self) -> bool:
        """Whether it has connections or folders that do not exist here in the same form."""
        return bool(self.unknown or self.new_folders)


@contextmanager
def open_incoming(databases: Databases, path: Path, checking: Progress) -> Iterator[IncomingArchive]:
    """Checks an archive and compares it with this installation. Writes nothing.

    Parameters
    ----------
    path
        The archive. A bare file name is also searched in the archives folder of the installation.
    checking
        Progress callback for reading the file.

    Raises
    ------
    ArchiveError, DatabaseError
        ArchiveError if the file is invalid; DatabaseError if the role of the connection lacks rights.
    """
    _require_rights(databases)
    path = _find(databases, path)
    with open_archive(path) as archive:
        _require_known_schema(archive)
        checked, sha256 = check(archive, checking), archive.sha256()
        with database_errors(), databases.doc_eval.connect() as connection:
            own = configuration.archive_sha256_of(connection, archive.manifest.batch) == sha256
            is_foreign = not own or configuration.is_foreign(connection, archive.manifest.batch)
            here = configuration.existing_connections(connection)
            paths = [folder.folder_path for folder in checked.batch.folders]
            known = set(paths) if own else configuration.existing_folders(connection, paths)
        endpoints = _endpoints(checked, here)
        if not own:
            _require_valid_definitions(archive, checked, endpoints)
            if problem := foreign.objection(checked):
                raise _not_restorable(archive, problem)
        connections = [_incoming_connection(endpoint, [endpoint] if own else here) for endpoint in endpoints]
        new_folders = [path for path in paths if path not in known]
        yield IncomingArchive(archive, path, sha256, checked, own, is_foreign, connections, new_folders)


def restore(
    databases: Databases, incoming: IncomingArchive, storing: Progress, *, accept_connections: bool = False
) -> RestoredBatch:
    """Restores an archived batch into the installation that archived it, or into another one.

    Parameters
    ----------
    storing
        Progress callback for storing the documents.
    accept_connections
        Whether a user has seen and accepted the connections and folders that are new or different here.

    Raises
    ------
    ArchiveError, BatchStateError, DatabaseError
        ArchiveError if the archive conflicts with this installation or was not accepted; BatchStateError
        if the batch is not archived. Nothing was written then.
    """
    if incoming.must_be_accepted and not accept_connections:
        raise ArchiveError(_unaccepted(incoming))
    batch_id = incoming.batch_id
    with database_errors(), number_lock(databases, batch_id) as connection:
        with databases.knowledge.connect() as knowledge:
            load.require_free_number(
                knowledge, batch_id, incoming.checked.batch.batch.config_sha256, incoming.checked.attempts
            )
        with refused_rows(incoming.archive.name):
            _require_no_conflict(connection, incoming)
            stored, results = _load_batch(databases, connection, incoming, storing)
        with databases.knowledge.connect() as knowledge:
            rows = count_rows(knowledge, batch_id)
        if rows != incoming.checked.attempts:
            raise ArchiveError(
                f"{partition_key(batch_id)}: {rows} of {incoming.checked.attempts} rows are in the queue "
                "after commit because another program changed them: restore the archive again"
            )
        with connection.begin():
            configuration.mark_restored(connection, batch_id, results)
            batch = batch_by_id(connection, batch_id)
        if batch.reported_digest is not None and find_report(databases, batch) is None:
            # Never the archived report: it may come from another installation.
            write_report(databases, batch_id)
    checked = incoming.checked
    return RestoredBatch(
        batch_id, incoming.path, incoming.sha256, rows, checked.documents, stored, checked.files
    )


def _find(databases: Databases, path: Path) -> Path:
    in_archives = databases.settings.archives / path.name
    return in_archives if not path.exists() and path.name == str(path) and in_archives.exists() else path


def _require_known_schema(archive: Archive) -> None:
    for schema, revision in HEADS.items():
        archived = archive.manifest.schemas.get(schema.value, "")
        if archived > revision:
            raise newer(archive.name, f"schema {schema.value} {archived}")


def _require_valid_definitions(
    archive: Archive, checked: CheckedArchive, endpoints: list[dict[str, Any]]
) -> None:
    """Raises for names, connections and API keys that `doceval apply` would reject."""
    sealed = checked.config
    named = [("batch", sealed.batch.name)]
    named += [("connection", connection.name) for connection in sealed.connections]
    named += [("connection", connection.provider_type) for connection in sealed.connections]
    named += [("connection", connection.model_name) for connection in sealed.connections]
    named += [("prompt", prompt.name) for prompt in sealed.prompts]
    for kind, name in named:
        if problem := refusal(normal(name)):
            raise ArchiveError(
                f"{archive.name}: the name of a {kind} {problem}: the archive cannot be restored here"
            )
    try:
        require_no_key(sealed.model_dump())
    except StagingError as error:
        raise ArchiveError(f"{archive.name}: {printable(str(error))}") from None
    for endpoint in endpoints:
        if problem := problem_of_connection({given: endpoint[name] for given, name in _AS_DEFINED.items()}):
            raise ArchiveError(
                f"{archive.name}: connection {printable(endpoint['name'])}: {printable(problem)}: it cannot "
                "be restored here"
            )


def _not_restorable(archive: Archive, problem: str) -> ArchiveError:
    return ArchiveError(
        f"{archive.name} cannot be restored ({problem}): use another copy, or archive the batch again "
        "in its original installation"
    )


def _endpoints(checked: CheckedArchive, here: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sealed connections, and connections to create here that differ from the sealed ones."""
    sealed = [connection.model_dump() for connection in checked.config.connections]
    defined = {connection["id"] for connection in here}
    rows = [connection.model_dump(include=set(sealed[0])) for connection in checked.batch.connections]
    return sealed + [row for row in rows if row["id"] not in defined and row not in sealed]


def _incoming_connection(endpoint: Mapping[str, Any], here: list[dict[str, Any]]) -> IncomingConnection:
    values = {key: value for key, value in endpoint.items() if key != "id"}
    known = [{key: value for key, value in one.items() if key != "id"} for one in here]
    same_name = any(one["name"] == values["name"] for one in known)
    difference = None if values in known else DIFFERS if same_name else NEW
    return IncomingConnection(**values, difference=difference)


def _unaccepted(incoming: IncomingArchive) -> str:
    connections = [f"{one.name} ({one.difference}): {one.address}" for one in incoming.unknown]
    folders = [printable(shorten(path)) for path in incoming.new_folders]
    parts = (
        [f"connections that are new or different here: {_first_three(connections)}"] if connections else []
    )
    parts += [f"folders that no batch here has: {_first_three(folders)}"] if folders else []
    new = "; and ".join(parts)
    return (
        f"{incoming.archive.name} brings {new}: reprocessing sends documents and keys to these connections "
        "and reads these folders; if you trust them, restore the archive with --accept-connections"
    )


def _first_three(shown: list[str]) -> str:
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more


def shorten(text: str) -> str:
    """The beginning of a text, as it is shown to people."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _in_ascii(host: str) -> str:
    """A host name as it is resolved; escaped if it is not a valid name."""
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host.encode("ascii", "backslashreplace").decode()


def _members(archive: Archive) -> configuration.Members:
    of = partial(partial, archive.pieces)
    return configuration.Members(of(BATCH), of(FILES), of(PROGRESS), of(HISTORY))


def _require_rights(databases: Databases) -> None:
    what = "the restore"
    with database_errors(), databases.doc_eval.connect() as connection:
        require_rights(connection, what, configuration.RIGHTS, configuration.NUMBERED)
    with database_errors(), databases.knowledge.connect() as connection:
        require_rights(connection, what, load.RIGHTS, load.NUMBERED, load.FUNCTIONS)


def _require_no_conflict(connection: Connection, incoming: IncomingArchive) -> None:
    """Raises if doc_eval would reject the archive: reads all of it into temporary tables, and rolls back."""
    with connection.begin() as transaction:
        _read_configuration(connection, incoming)
        transaction.rollback()


def _read_configuration(connection: Connection, incoming: IncomingArchive) -> bool:
    """Reads the archive into temporary tables; returns whether the batch already exists here."""
    archive = incoming.archive
    batch, file = incoming.checked.batch.batch.model_dump(), Path(archive.name).name
    exists = bool(configuration.is_same_batch(connection, batch))
    if exists:
        _require_its_archive(connection, incoming)
    else:
        configuration.read_batch(connection, _members(archive), batch, file)
    configuration.read_files(connection, _members(archive), file)
    if not incoming.is_own:
        _require_files_below(connection, archive)
    return exists


def _require_files_below(connection: Connection, archive: Archive) -> None:
    """Raises for a file outside of its folder, or with a display name of another file."""
    for file in configuration.archived_files(connection):
        # A folder that the batch names twice has the single entry "." the second time. A key on object
        # storage that is not read may have any form.
        is_unused = file.state in ("SKIPPED", "REJECTED")
        below = is_below(file.raw_path) or (
            is_unused and (file.raw_path == b"." or file.reason in (FOLDER_MARKER, UNREADABLE_NAME))
        )
        name = file.filepath.rpartition("/")[2]
        if not below or display_name(file.raw_path) != file.filepath or name != file.filename:
            raise _not_restorable(
                archive, f"{FILES} has a path outside of its folder, or with a different display name"
            )


def _require_its_archive(connection: Connection, incoming: IncomingArchive) -> None:
    batch = batch_by_id(connection, incoming.batch_id)
    if batch.archived_at is None:
        raise BatchStateError(
            f"{batch.key} is not archived: its rows are in the databases and need no restore"
        )
    if batch.archive_sha256 != incoming.sha256:
        raise ArchiveError(
            f"{incoming.archive.name} is not the archive of {batch.key}: restore "
            f"{batch.archive_file}, or an unchanged copy of it"
        )


def _reserve_ids(databases: Databases, checked: CheckedArchive) -> None:
    """Reserves the ids of the archive; takes one lock at a time."""
    largest = {"docs": checked.largest_document, "llm_responses": checked.largest_attempt}
    for table, number in largest.items():
        with databases.knowledge.begin() as knowledge:
            reserve_ids(knowledge, table, number)


def _load_batch(
    databases: Databases, connection: Connection, incoming: IncomingArchive, progress: Progress
) -> tuple[int, str]:
    """Restores the documents, the rows and the files.

    Returns the number of stored documents and the digest of the results, which differs from the archived one
    if documents have other ids, or if the archived one is wrong.
    """
    archive, batch_id = incoming.archive, incoming.batch_id
    for _ in range(MOST_TRIES):
        try:
            with databases.knowledge.begin() as knowledge:
                _read_knowledge(knowledge, incoming)
                _reserve_ids(databases, incoming.checked)
                missing = load.assign_document_ids(knowledge)
                copy_documents(
                    knowledge, _documents(archive, missing, progress), with_ids=True, with_times=True
                )
                moved = load.changed_document_ids(knowledge)
                load.load_rows(knowledge, batch_id)
                recount(knowledge, batch_id)
                load.load_config(knowledge, batch_id, is_trusted=not incoming.is_foreign)
                # Computed before any other program can change a row.
                results = digest(knowledge, batch_id)
                # Committed before the rows, as archiving removes files last: files alone are leftovers.
                _load_configuration(connection, incoming, moved)
            return len(missing), results
        except DocumentArrived:
            continue
    raise ArchiveError(
        f"{partition_key(batch_id)}: other processes kept storing the same documents "
        "concurrently: restore the archive again when they are done"
    )


def _read_knowledge(knowledge: Connection, incoming: IncomingArchive) -> None:
    """Reads the archive into temporary tables; raises if it cannot be the archive of a closed batch."""
    archive = incoming.archive
    load.read_config(knowledge, archive.pieces(BATCH))
    load.read_docs(knowledge, archive.pieces(DOCS))
    load.read_attempts(knowledge, archive.pieces(ATTEMPTS))
    if incoming.is_foreign:
        load.clear_origins(knowledge)
    if incoming.is_own:
        return
    batch = incoming.checked.batch.batch
    expected = 0 if batch.status == "FAILED_STAGING" else batch.expected_cells or 0
    any_outcome = batch.status == "FAILED_STAGING" or batch.cancelled_at is not None
    is_complete = None if any_outcome else batch.status == "COMPLETED"
    problem = load.attempts_problem(knowledge, expected, is_complete=is_complete)
    if problem is not None:
        raise _not_restorable(archive, f"{ATTEMPTS}: {problem}")


def _load_configuration(connection: Connection, incoming: IncomingArchive, moved: dict[int, int]) -> None:
    with connection.begin():
        lock_definitions(connection)
        if not _read_configuration(connection, incoming):
            file, when = Path(incoming.archive.name).name, incoming.archive.manifest.archived_at
            documents = incoming.checked.contents
            configuration.register_batch(
                connection, incoming.batch_id, file, when, incoming.sha256, documents
            )
        configuration.load_files(connection, incoming.batch_id, moved)


def _documents(archive: Archive, missing: list[MissingDocument], progress: Progress) -> Iterator[NewDocument]:
    size = 0
    progress(0, len(missing), 0)
    for done, document in enumerate(missing, start=1):
        fingerprint = document.fingerprint
        pieces = (encode(piece) for piece in archive.document(fingerprint.sha256, fingerprint.size))
        yield NewDocument(fingerprint, pieces, document.id, document.created_at)
        size += fingerprint.size
        progress(done, len(missing), size)
