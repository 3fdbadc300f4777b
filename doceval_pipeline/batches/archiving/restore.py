"""Puts an archived batch back into both databases, as it was.

An archive may come from anybody. The whole file is checked (`archives.checking`), then read into tables of
transactions under the rules of the databases; until all of it has passed nothing is written, no id is
reserved and no sequence moves. Whoever restores an archive of another installation sees its connections
first: they name the hosts that documents and keys are sent to.

What follows goes the way of `archiving` backwards: the files, then the rows in one transaction, then the word
that they are here. Killed anywhere, asking again, for the restore or for the archive, makes it good.
"""

from collections.abc import (
    Iterator,
    Mapping,
)
from contextlib import (
    contextmanager,
)
from dataclasses import (
    dataclass,
)
from functools import (
    partial,
)
from pathlib import (
    Path,
)
from typing import (
    Any,
)
from urllib.parse import (
    urlsplit,
)

from sqlalchemy import (
    Connection,
)

from doceval_pipeline.archives import (
    foreign,
)
from doceval_pipeline.archives.checking import (
    Checked,
    check,
)
from doceval_pipeline.archives.format import (
    ATTEMPTS,
    BATCH,
    DOCS,
    FILES,
    HISTORY,
    PROGRESS,
    newer,
)
from doceval_pipeline.archives.reading import (
    Archive,
    open_archive,
)
from doceval_pipeline.batches.archiving.refused_rows import (
    refused_rows,
)
from doceval_pipeline.batches.databases import (
    Databases,
    database_errors,
)
from doceval_pipeline.batches.locks import (
    number_lock,
)
from doceval_pipeline.batches.results.report_files import (
    find_report,
)
from doceval_pipeline.batches.results.reporting import (
    write_report,
)
from doceval_pipeline.batches.staging.storing import (
    Progress,
)
from doceval_pipeline.doc_eval.archive import (
    load as configuration,
)
from doceval_pipeline.doc_eval.batches import (
    batch_by_id,
    partition_key,
)
from doceval_pipeline.doc_eval.definitions.apply import (
    lock_definitions,
)
from doceval_pipeline.doc_eval.definitions.schema import (
    problem_of_connection,
)
from doceval_pipeline.doc_eval.snapshot import (
    require_no_key,
)
from doceval_pipeline.documents.reading import (
    encode,
)
from doceval_pipeline.documents.walk import (
    display_name,
    is_below,
)
from doceval_pipeline.errors import (
    ArchiveError,
    BatchStateError,
    StagingError,
)
from doceval_pipeline.knowledge.archive import (
    load,
)
from doceval_pipeline.knowledge.archive.load import (
    MissingContent,
)
from doceval_pipeline.knowledge.digests import (
    digest,
)
from doceval_pipeline.knowledge.documents import (
    DocumentArrived,
    NewDocument,
    copy_documents,
)
from doceval_pipeline.knowledge.incremental_counts import (
    recount,
)
from doceval_pipeline.knowledge.queue import (
    count_rows,
)
from doceval_pipeline.migrations.rights import (
    require_rights,
)
from doceval_pipeline.migrations.rows import (
    reserve_ids,
)
from doceval_pipeline.migrations.upgrade import (
    HEADS,
)
from doceval_pipeline.names import (
    normal,
    printable,
    refusal,
)

# Each further try finds what another process stored in between.
MOST_TRIES = 20
NEW, DIFFERS = "new", "differs"
# Characters of an address or a folder that a person is asked about; a host has 253 at most.
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
class Restored:
    """What came back of which batch, from which file; `documents_stored` are those that were not here."""

    batch_id: int
    path: Path
    sha256: str
    rows: int
    documents: int
    documents_stored: int
    files: int


@dataclass(frozen=True)
class IncomingConnection:
    """A connection that comes with an archive: where a processor sends documents, and the name of its key.

    `news` is `new` where no connection of this name is here, `differs` where there is one that says something
    else, and None where it is here just like this.
    """

    name: str
    provider_type: str
    model_name: str
    base_url: str | None
    port_no: int | None
    api_key_env: str | None
    connection_config: dict[str, Any]
    news: str | None

    @property
    def address(self) -> str:
        """Where it leads, for people: the URL, its host in ASCII, and the port where it has its own."""
        where = cut(self.base_url or "the provider's own address")
        host = urlsplit(self.base_url or "").hostname or ""
        if not host.isascii():
            where += f" ({_in_ascii(host)})"
        return printable(where if self.port_no is None else f"{where} port {self.port_no}")


@dataclass(frozen=True)
class Incoming:
    """An archive that was checked and is still open: what it brings, before anything of it is here.

    `own` says whether this installation wrote the file, as its sha256 proves; what is in it was here before.
    `is_foreign` says whether another installation made the batch, also where this one archived it since: its
    results are not reused here. `new_folders` are folders that no batch here has.
    """

    archive: Archive
    path: Path
    sha256: str
    checked: Checked
    own: bool
    is_foreign: bool
    connections: list[IncomingConnection]
    new_folders: list[str]

    @property
    def batch_id(self) -> int:
        """The number of the batch."""
        return self.archive.manifest.batch

    @property
    def unknown(self) -> list[IncomingConnection]:
        """Connections that somebody must accept."""
        return [connection for connection in self.connections if connection.news is not None]

    @property
    def must_be_accepted(self) -> bool:
        """Whether it brings connections or folders that are not here like this."""
        return bool(self.unknown or self.new_folders)


@contextmanager
def incoming(databases: Databases, path: Path, checking: Progress) -> Iterator[Incoming]:
    """Check an archive, and find out what it would bring into this installation. Writes nothing.

    Parameters
    ----------
    path
        The archive. A bare name is looked for in the installation's folder of archives too.
    checking
        Told how far the reading of the file is.

    Raises
    ------
    ArchiveError, DatabaseError
        ArchiveError where the file is not what it should be; DatabaseError where the role of the connection
        may not restore.
    """
    _require_rights(databases)
    path = _find(databases, path)
    with open_archive(path) as archive:
        _require_known_schema(archive)
        checked, sha256 = check(archive, checking), archive.sha256()
        with database_errors(), databases.doc_eval.connect() as connection:
            own = configuration.archive_here(connection, archive.manifest.batch) == sha256
            is_foreign = not own or configuration.is_foreign(connection, archive.manifest.batch)
            here = configuration.connections_here(connection)
            paths = [folder.folder_path for folder in checked.batch.folders]
            known = set(paths) if own else configuration.folders_here(connection, paths)
        endpoints = _endpoints(checked, here)
        if not own:
            _require_fit_to_define(archive, checked, endpoints)
            if problem := foreign.objection(checked):
                raise _unfit(archive, problem)
        brought = [_incoming(endpoint, [endpoint] if own else here) for endpoint in endpoints]
        new_folders = [path for path in paths if path not in known]
        yield Incoming(archive, path, sha256, checked, own, is_foreign, brought, new_folders)


def restore(
    databases: Databases, coming: Incoming, storing: Progress, accept_connections: bool = False
) -> Restored:
    """Bring an archived batch back, into the installation that archived it or into another one.

    Parameters
    ----------
    storing
        Told how far the storing of the documents is.
    accept_connections
        Whether somebody has seen the connections and folders that are not here like this, and takes them.

    Raises
    ------
    ArchiveError, BatchStateError, DatabaseError
        ArchiveError where the archive does not fit in here, or brings what nobody has accepted;
        BatchStateError where the batch is not archived. Nothing was written then.
    """
    if coming.must_be_accepted and not accept_connections:
        raise ArchiveError(_unaccepted(coming))
    batch_id = coming.batch_id
    with database_errors(), number_lock(databases, batch_id) as connection:
        with databases.knowledge.connect() as knowledge:
            load.require_free_number(
                knowledge, batch_id, coming.checked.batch.batch.config_sha256, coming.checked.attempts
            )
        with refused_rows(coming.archive.name):
            _require_room(connection, coming)
            stored, results = _put_back(databases, connection, coming, storing)
        with databases.knowledge.connect() as knowledge:
            rows = count_rows(knowledge, batch_id)
        if rows != coming.checked.attempts:
            raise ArchiveError(
                f"{partition_key(batch_id)}: {rows} of {coming.checked.attempts} rows are in the queue after "
                "commit: somebody changed them meanwhile; restore it again"
            )
        with connection.begin():
            configuration.open_again(connection, batch_id, results)
            batch = batch_by_id(connection, batch_id)
        if batch.reported_digest is not None and find_report(databases, batch) is None:
            # Never the archived one: a page of somebody else would stand among our own.
            write_report(databases, batch_id)
    checked = coming.checked
    return Restored(batch_id, coming.path, coming.sha256, rows, checked.documents, stored, checked.files)


def _find(databases: Databases, path: Path) -> Path:
    in_archives = databases.settings.archives / path.name
    return in_archives if not path.exists() and path.name == str(path) and in_archives.exists() else path


def _require_known_schema(archive: Archive) -> None:
    for schema, revision in HEADS.items():
        found = archive.manifest.schemas.get(schema.value, "")
        if found > revision:
            raise newer(archive.name, f"schema {schema.value} {found}")


def _require_fit_to_define(archive: Archive, checked: Checked, endpoints: list[dict[str, Any]]) -> None:
    """Refuse names and connections that nobody could define here, and keys, as an apply does."""
    sealed = checked.config
    named = [("batch", sealed.batch.name)]
    named += [("connection", connection.name) for connection in sealed.connections]
    named += [("connection", connection.provider_type) for connection in sealed.connections]
    named += [("connection", connection.model_name) for connection in sealed.connections]
    named += [("prompt", prompt.name) for prompt in sealed.prompts]
    for kind, name in named:
        if problem := refusal(normal(name)):
            raise ArchiveError(f"{archive.name}: a name of a {kind} {problem}: it cannot be restored here")
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


def _unfit(archive: Archive, problem: str) -> ArchiveError:
    return ArchiveError(
        f"{archive.name} cannot be restored ({problem}): use another copy of it, or archive the batch anew "
        "where it comes from"
    )


def _endpoints(checked: Checked, here: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the batch's rows use, and what would be defined here, where that is something else by now."""
    sealed = [connection.model_dump() for connection in checked.config.connections]
    defined = {connection["id"] for connection in here}
    rows = [connection.model_dump(include=set(sealed[0])) for connection in checked.batch.connections]
    return sealed + [row for row in rows if row["id"] not in defined and row not in sealed]


def _incoming(endpoint: Mapping[str, Any], here: list[dict[str, Any]]) -> IncomingConnection:
    values = {key: value for key, value in endpoint.items() if key != "id"}
    known = [{key: value for key, value in one.items() if key != "id"} for one in here]
    same_name = any(one["name"] == values["name"] for one in known)
    news = None if values in known else DIFFERS if same_name else NEW
    return IncomingConnection(**values, news=news)


def _unaccepted(coming: Incoming) -> str:
    connections = [f"{one.name} ({one.news}): {one.address}" for one in coming.unknown]
    folders = [printable(cut(path)) for path in coming.new_folders]
    brought = [f"connections that are not here like this: {_some(connections)}"] if connections else []
    brought += [f"folders that no batch here has: {_some(folders)}"] if folders else []
    what = "; and ".join(brought)
    return (
        f"{coming.archive.name} brings {what}: reprocessing sends documents and keys to such "
        "connections and reads such folders; if you trust them, restore it again with --accept-connections"
    )


def _some(shown: list[str]) -> str:
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more


def cut(text: str) -> str:
    """As much of a text as a person is shown of it."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _in_ascii(host: str) -> str:
    """A host as the name service is asked for it; escaped where it cannot be a name."""
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


def _require_room(connection: Connection, coming: Incoming) -> None:
    """Refuse what doc_eval would refuse: all is read under its rules, and taken back."""
    with connection.begin() as transaction:
        _read_configuration(connection, coming)
        transaction.rollback()


def _read_configuration(connection: Connection, coming: Incoming) -> bool:
    """Read what comes into tables of the transaction; returns whether the batch is known here."""
    archive = coming.archive
    batch, file = coming.checked.batch.batch.model_dump(), Path(archive.name).name
    known = bool(configuration.is_same_batch(connection, batch))
    if known:
        _require_its_archive(connection, coming)
    else:
        configuration.read_batch(connection, _members(archive), batch, file)
    configuration.read_files(connection, _members(archive), file)
    if not coming.own:
        _require_files_below(connection, archive)
    return known


def _require_files_below(connection: Connection, archive: Archive) -> None:
    """Refuse a file that is not below its folder, or that is shown as another one than it is."""
    for path, shown, name, state in configuration.files_read(connection):
        # A folder that is the same as another one of the batch is listed as itself, and never read.
        below = is_below(path) or (path == b"." and state in ("SKIPPED", "REJECTED"))
        if not below or display_name(path) != shown or shown.rpartition("/")[2] != name:
            raise _unfit(
                archive, f"{FILES} has a path that is not below its folder, or is shown as another one"
            )


def _require_its_archive(connection: Connection, coming: Incoming) -> None:
    batch = batch_by_id(connection, coming.batch_id)
    if batch.archived_at is None:
        raise BatchStateError(
            f"{batch.key} is not archived: its rows are here, and nothing is to be restored"
        )
    if batch.archive_sha256 != coming.sha256:
        raise ArchiveError(
            f"{coming.archive.name} is not the file that {batch.key} was archived as: restore "
            f"{batch.archive_file}, or an unchanged copy of it"
        )


def _reserve_ids(databases: Databases, checked: Checked) -> None:
    """Keep the ids of the archive out of the hands of others; one lock at a time."""
    largest = {"docs": checked.largest_document, "llm_responses": checked.largest_attempt}
    for table, number in largest.items():
        with databases.knowledge.begin() as knowledge:
            reserve_ids(knowledge, table, number)


def _put_back(
    databases: Databases, connection: Connection, coming: Incoming, progress: Progress
) -> tuple[int, str]:
    """Put the contents, the rows and the files back.

    Returns how many contents were stored, and the digest of the results, which is another one where documents
    have other ids, or where somebody made one up.
    """
    archive, batch_id = coming.archive, coming.batch_id
    for _ in range(MOST_TRIES):
        try:
            with databases.knowledge.begin() as knowledge:
                _read_knowledge(knowledge, coming)
                _reserve_ids(databases, coming.checked)
                missing = load.place_docs(knowledge)
                copy_documents(knowledge, _documents(archive, missing, progress), keep_ids=True)
                moved = load.moved_docs(knowledge)
                load.put_back_rows(knowledge, batch_id)
                recount(knowledge, batch_id)
                load.put_back_config(knowledge, batch_id, not coming.is_foreign)
                # Taken before anybody else can change a row.
                results = digest(knowledge, batch_id)
                # Committed first, as archiving removes it last: files without rows are known to be left over.
                _put_back_configuration(connection, coming, moved)
            return len(missing), results
        except DocumentArrived:
            continue
    raise ArchiveError(
        f"{partition_key(batch_id)}: other processes kept storing the same documents at the "
        "same time: restore it again when they are done"
    )


def _read_knowledge(knowledge: Connection, coming: Incoming) -> None:
    """Read what comes into tables of the transaction, and refuse what cannot be of an archived batch."""
    archive = coming.archive
    load.read_config(knowledge, archive.pieces(BATCH))
    load.read_docs(knowledge, archive.pieces(DOCS))
    load.read_attempts(knowledge, archive.pieces(ATTEMPTS))
    if coming.is_foreign:
        load.forget_origins(knowledge)
    if coming.own:
        return
    batch = coming.checked.batch.batch
    expected = 0 if batch.status == "FAILED_STAGING" else batch.expected_cells or 0
    any_outcome = batch.status == "FAILED_STAGING" or batch.cancelled_at is not None
    is_complete = None if any_outcome else batch.status == "COMPLETED"
    problem = load.problem_of_attempts(knowledge, expected, is_complete)
    if problem is not None:
        raise _unfit(archive, f"{ATTEMPTS}: {problem}")


def _put_back_configuration(connection: Connection, coming: Incoming, moved: dict[int, int]) -> None:
    with connection.begin():
        lock_definitions(connection)
        if not _read_configuration(connection, coming):
            file, when = Path(coming.archive.name).name, coming.archive.manifest.archived_at
            contents = coming.checked.contents
            configuration.register_batch(connection, coming.batch_id, file, when, coming.sha256, contents)
        configuration.put_back_files(connection, coming.batch_id, moved)


def _documents(archive: Archive, missing: list[MissingContent], progress: Progress) -> Iterator[NewDocument]:
    size = 0
    progress(0, len(missing), 0)
    for done, content in enumerate(missing, start=1):
        pieces = (encode(piece) for piece in archive.document(content.sha256, content.size))
        yield NewDocument(
            content.sha256,
            content.size,
            content.content_type,
            content.doc_type,
            pieces,
            content.id,
            content.created_at,
        )
        size += content.size
        progress(done, len(missing), size)
