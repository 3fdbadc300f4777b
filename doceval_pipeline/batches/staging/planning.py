"""Plans what staging or reprocessing a batch would do, without writing anything.

Files are read only if their documents are not known yet.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.files.folders import (
    found_files,
    notes_on_assigned,
    notes_on_nesting,
    notes_on_patterns,
)
from doceval_pipeline.batches.files.recurring_listing import list_files
from doceval_pipeline.batches.staging.estimates import (
    ConnectionWork,
    WorkEstimate,
    estimate_work,
    with_rough_figures,
)
from doceval_pipeline.batches.staging.limits import exceeded_limit
from doceval_pipeline.batches.staging.recurring import choose_files, remove_unchanged, require_references
from doceval_pipeline.batches.staging.reprocessing import OUTCOMES, Mode
from doceval_pipeline.batches.staging.sample_size import note_on_sample
from doceval_pipeline.doc_eval import files as batch_documents
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id
from doceval_pipeline.doc_eval.files import FoundFile, Tally, UnstagedFile
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.recurring import stored as recurring
from doceval_pipeline.doc_eval.recurring.occurrences import has_only_changes
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.doc_eval.snapshot import compose, compose_questions, edited_since, read_snapshot
from doceval_pipeline.documents.reading import DocumentRejected
from doceval_pipeline.documents.sources import fingerprint_document
from doceval_pipeline.documents.walk import ASSIGNED, NOT_INCLUDED
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.files import DocumentRange, MeasuredDocument
from doceval_pipeline.domain.recurring import FileComparison, OccurrenceOutcome
from doceval_pipeline.errors import StagingError
from doceval_pipeline.knowledge.documents import find_documents
from doceval_pipeline.knowledge.queue import RowTally, tally_rows
from doceval_pipeline.knowledge.reuse import Reusable, find_reusable
from doceval_pipeline.portions import Progress, in_portions

_CHUNK = 5_000
# The numbers of batches begin at 1.
NO_BATCH = 0


@dataclass(frozen=True, slots=True)
class _Unread:
    """A file to read, by its folder and path; of an object the version `etag`."""

    folder: str
    raw_path: bytes
    etag: str | None


@dataclass(frozen=True)
class PlannedDocuments:
    """Documents that a batch would have, and its unusable files by reason; sizes in bytes.

    `added` documents are not stored yet, `reused` ones are, by this or another batch. `leaving` documents
    would no longer be in the batch.
    """

    added: int
    added_bytes: int
    reused: int
    reused_bytes: int
    leaving: int
    unusable: dict[str, int]


@dataclass(frozen=True)
class PlannedCells:
    """Evaluations by what would happen to them.

    `added` get a first row to process, and `superseded` a new attempt, both by reason. Two prompts with the
    same text are both asked, unless an earlier batch has the result. `kept` keep their result, `left_alone`
    are waiting or running, and `set_aside` belong to documents that leave. `from_earlier` get a first row
    with a result of one of `earlier_batches` batches.
    """

    added: dict[str, int]
    superseded: dict[str, int]
    kept: int
    left_alone: int
    set_aside: int
    from_earlier: int = 0
    earlier_batches: int = 0

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval plan --json` prints, where `reused` are the kept ones."""
        return {"reused" if key == "kept" else key: value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Plan:
    """What an action would do, what it is expected to take, and notes for people."""

    batch: BatchRecord
    documents: PlannedDocuments
    cells: PlannedCells
    estimates: list[WorkEstimate]
    notes: list[str] = field(default_factory=list)
    held: str | None = None
    """Why the batch would be held, as the end of a sentence; None if it would not."""

    def counts(self) -> dict[str, int]:
        """How many evaluations, new attempts and documents would be added."""
        return {
            "cells_to_add": sum(self.cells.added.values()),
            "cells_to_reuse": self.cells.from_earlier,
            "new_attempts_to_add": sum(self.cells.superseded.values()),
            "documents_to_store": self.documents.added,
        }

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval plan --json` prints; intervals are [low, expected, high] or null."""
        return {
            "batch": self.batch.id,
            "name": self.batch.name,
            "status": self.batch.status.value,
            "documents": asdict(self.documents),
            "cells": self.cells.as_json(),
            "estimates": [estimate.as_json() for estimate in self.estimates],
            "held": self.held,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class PlannedOccurrence:
    """What the next occurrence of a recurring evaluation would create now.

    `due_at` is None if no time is set, because it is paused or waits for arrivals; `timezone` is that
    of its schedule. `reason` says why no batch would be created. `documents`, `cells` and `estimates`
    describe the batch.
    """

    name: str
    due_at: datetime | None
    timezone: str
    outcome: OccurrenceOutcome
    reason: str | None
    files: FileComparison
    documents: PlannedDocuments
    cells: PlannedCells
    estimates: list[WorkEstimate]
    held: str | None

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval plan NAME --json` prints for a recurring evaluation."""
        return {
            "recurring": self.name,
            "due_at": None if self.due_at is None else self.due_at.isoformat(),
            "outcome": self.outcome.value,
            "reason": self.reason,
            "files": asdict(self.files),
            "documents": asdict(self.documents),
            "cells": self.cells.as_json(),
            "estimates": [estimate.as_json() for estimate in self.estimates],
            "held": self.held,
        }


def plan(
    databases: Databases, batch_id: int, mode: Mode, progress: Progress, *, rescan: bool = False
) -> Plan:
    """Plan what `stage`, or `reprocess` with `mode` and `rescan`, would do now.

    Parameters
    ----------
    progress
        Receives the progress of reading files.

    Raises
    ------
    UnknownBatch, BatchStateError, StagingError, DatabaseError
        As the action itself; StagingError if a folder is missing.
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        stored = _read_stored_state(connection, batch_id)
    batch, config = stored.batch, stored.config
    if batch.status not in (Status.SAVED, Status.FAILED_STAGING) or mode is not Mode.missing or rescan:
        batch.require_reprocessable()
    scanned = _scan(databases, stored, rescan=rescan)
    found, unusable = _planned_documents(stored, scanned, databases.settings.max_document_bytes, progress)
    reuses = batch.reuse == "finished" and mode is not Mode.all
    work = _compare(databases, batch_id, config, found, OUTCOMES[mode], reuses=reuses)
    documents = _documents(found, work.document_ids, stored.document_ids, unusable)
    held_reason = None
    if batch.expected_cells is None:
        held_reason = exceeded_limit(batch.max_documents, batch.max_cost, len(found), work.estimates)
    on_files = notes_on_assigned(databases, batch_id) if scanned is None else _notes_on_files(stored, scanned)
    notes = [*_notes(stored.edited), *on_files, *_notes_on_sample(stored, len(found))]
    return Plan(batch, documents, work.cells, work.estimates, notes, held_reason)


def plan_occurrence(databases: Databases, record: RecurringRecord, progress: Progress) -> PlannedOccurrence:
    """Plan what the next occurrence of a recurring evaluation would create now.

    The result has the reason if no batch would be created, such as a folder that does not exist.

    Parameters
    ----------
    progress
        Receives the progress of reading files.

    Raises
    ------
    UnknownRecurring, RecurringError, DatabaseError
        RecurringError if its definition is not usable.
    """
    record.require_usable()
    try:
        current, files, reason, scanned, config = _next_files(databases, record)
    except StagingError as error:
        return _without_batch(record, str(error))
    folders = {folder["id"]: folder["path"] for folder in config["folders"]}
    unusable = Counter(file.reason or "" for file in scanned if file.state != ASSIGNED)
    unread = [_Unread(folders[f.folder_id], f.raw_path, f.etag) for f in scanned if f.state == ASSIGNED]
    found: dict[str, MeasuredDocument] = {}
    unusable.update(_read(unread, databases.settings.max_document_bytes, found, progress))
    definition = current.definition
    work = _compare(databases, NO_BATCH, config, found, (), reuses=definition.reuse == "finished")
    held_reason = exceeded_limit(definition.max_documents, definition.max_cost, len(found), work.estimates)
    return PlannedOccurrence(
        name=current.name,
        due_at=current.due_at or current.next_at,
        timezone=definition.timezone,
        outcome=OccurrenceOutcome.MADE if reason is None else OccurrenceOutcome.SKIPPED,
        reason=reason,
        files=files,
        documents=_documents(found, work.document_ids, set(), dict(sorted(unusable.items()))),
        cells=work.cells,
        estimates=work.estimates,
        held=held_reason,
    )


def _without_batch(record: RecurringRecord, reason: str) -> PlannedOccurrence:
    """The plan of an occurrence that would fail."""
    return PlannedOccurrence(
        name=record.name,
        due_at=record.due_at or record.next_at,
        timezone=record.definition.timezone,
        outcome=OccurrenceOutcome.FAILED,
        reason=reason,
        files=FileComparison(),
        documents=PlannedDocuments(0, 0, 0, 0, 0, {}),
        cells=PlannedCells({}, {}, kept=0, left_alone=0, set_aside=0),
        estimates=[],
        held=None,
    )


def _next_files(
    databases: Databases, record: RecurringRecord
) -> tuple[RecurringRecord, FileComparison, str | None, list[FoundFile], dict[str, Any]]:
    """The current recurring evaluation, and the files and questions of a batch that it would create now.

    Writes only to a temporary table, so that every role that may read can plan.
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        current = recurring.find_recurring(connection, record.name)
        current.require_usable()
        definition = current.definition
        folders = recurring.configured_folders(connection, definition)
        require_references(recurring.missing_reference(connection, definition))
    with (
        list_files(definition, folders, current.now, databases.settings) as listing,
        database_errors(),
        databases.doc_eval.connect() as connection,
    ):
        files, reason = choose_files(connection, current, listing)
        remove_unchanged(connection, current)
        scanned = batch_documents.read_found(connection) if reason is None else []
        questions = compose_questions(connection, definition.connections, definition.prompts)
    return current, files, reason, scanned, {"folders": folders, **questions}


@dataclass(frozen=True)
class _Comparison:
    """The stored documents of a planned batch by sha256, and what would happen to its evaluations."""

    document_ids: dict[str, int]
    cells: PlannedCells
    estimates: list[WorkEstimate]


def _compare(
    databases: Databases,
    batch_id: int,
    config: dict[str, Any],
    documents: Mapping[str, MeasuredDocument],
    again: Sequence[Outcome],
    *,
    reuses: bool,
) -> _Comparison:
    """Compare planned documents, given by sha256, with the stored rows of a batch."""
    with database_errors(), databases.knowledge.connect() as knowledge:
        known = _find_in_portions(knowledge, documents)
        ids, questions = list(known.values()), (config["prompts"], config["connections"])
        tallies = tally_rows(knowledge, batch_id, [DocumentRange(ids)], *questions)
        reused = find_reusable(knowledge, batch_id, ids, *questions) if reuses else []
    work = _work(config, documents.values(), tallies, again, reused)
    prompts = [prompt["text"] for prompt in config["prompts"]]
    with database_errors():
        estimates = estimate_work(databases, batch_id, work)
        estimates = with_rough_figures(databases, estimates, work, documents.values(), prompts)
    cells = _cells(config, len(documents), len(documents) - len(known), tallies, again, reused)
    return _Comparison(known, cells, estimates)


def _scan(databases: Databases, stored: "_StoredState", *, rescan: bool) -> list[FoundFile] | None:
    """The files in a batch's folders; None if the batch keeps its assigned files."""
    if stored.frozen and not rescan:
        return None
    scanned = list(found_files(stored.config, databases.settings))
    if not stored.has_only_changes:
        return scanned
    return [file for file in scanned if (file.folder_id, file.raw_path) in stored.usable]


@dataclass(frozen=True)
class _StoredState:
    """The selection of a batch and its assigned files, read from doc_eval."""

    batch: BatchRecord
    config: dict[str, Any]
    is_sealed: bool
    edited: list[tuple[str, str]]
    tallies: list[Tally]
    documents: dict[str, MeasuredDocument]
    unstaged: list[UnstagedFile]
    document_ids: set[int]
    usable: set[tuple[int, bytes]]
    has_only_changes: bool

    @property
    def frozen(self) -> bool:
        """Whether files are assigned and at least one is usable."""
        return any(tally.state in ("ASSIGNED", "STAGED") for tally in self.tallies)


def _read_stored_state(connection: Connection, batch_id: int) -> _StoredState:
    batch = batch_by_id(connection, batch_id)
    sealed = read_snapshot(connection, batch_id)
    only_changes = has_only_changes(connection, batch_id)
    return _StoredState(
        batch=batch,
        config=compose(connection, batch_id) if sealed is None else sealed.config,
        is_sealed=sealed is not None,
        edited=[] if sealed is None else edited_since(connection, batch_id, sealed),
        tallies=batch_documents.tally(connection, batch_id),
        documents=batch_documents.staged_documents(connection, batch_id),
        unstaged=batch_documents.unstaged_files(connection, batch_id),
        document_ids=set(batch_documents.stored_document_ids(connection, batch_id)),
        usable=batch_documents.usable_files(connection, batch_id) if only_changes else set(),
        has_only_changes=only_changes,
    )


def _planned_documents(
    stored: _StoredState, scanned: Sequence[FoundFile] | None, max_bytes: int, progress: Progress
) -> tuple[dict[str, MeasuredDocument], dict[str, int]]:
    """The documents that the batch would have, by sha256, and unusable files by reason."""
    documents: dict[str, MeasuredDocument] = {}
    unusable: Counter[str] = Counter()
    if scanned is None:
        documents |= stored.documents
        unusable.update({t.reason: t.files for t in stored.tallies if t.state in ("SKIPPED", "REJECTED")})
        unread = [_Unread(file.folder, file.raw_path, file.etag) for file in stored.unstaged]
    else:
        folders = {folder["id"]: folder["path"] for folder in stored.config["folders"]}
        if stored.has_only_changes:
            unusable.update({t.reason: t.files for t in stored.tallies if t.state in ("SKIPPED", "REJECTED")})
        unusable.update(file.reason or "" for file in scanned if file.state != ASSIGNED)
        unread = [_Unread(folders[f.folder_id], f.raw_path, f.etag) for f in scanned if f.state == ASSIGNED]
    unusable.update(_read(unread, max_bytes, documents, progress))
    return documents, dict(sorted(unusable.items()))


def _read(
    files: Sequence[_Unread],
    max_bytes: int,
    documents: dict[str, MeasuredDocument],
    progress: Progress,
) -> Iterator[str]:
    """Add the documents of files to `documents`, and yield the reason of each unusable file."""
    read_bytes = 0
    for done, file in enumerate(files):
        progress(done, len(files), read_bytes)
        try:
            found = fingerprint_document(file.folder, file.raw_path, max_bytes, file.etag)
        except DocumentRejected as rejection:
            yield rejection.reason
        else:
            documents[found.sha256] = MeasuredDocument(found.size, found.content_type)
            read_bytes += found.size
    if files:
        progress(len(files), len(files), read_bytes)


def _find_in_portions(knowledge: Connection, sha256s: Iterable[str]) -> dict[str, int]:
    known: dict[str, int] = {}
    for portion in in_portions(sha256s, _CHUNK):
        known |= find_documents(knowledge, portion)
    return known


def _documents(
    documents: Mapping[str, MeasuredDocument],
    known: dict[str, int],
    current: set[int],
    unusable: dict[str, int],
) -> PlannedDocuments:
    added_bytes = sum(one.size for sha256, one in documents.items() if sha256 not in known)
    return PlannedDocuments(
        added=len(documents) - len(known),
        added_bytes=added_bytes,
        reused=len(known),
        reused_bytes=sum(one.size for one in documents.values()) - added_bytes,
        leaving=len(current - set(known.values())),
        unusable=unusable,
    )


def _cells(
    config: dict[str, Any],
    documents: int,
    new: int,
    tallies: Sequence[RowTally],
    again: Sequence[Outcome],
    reused: Sequence[Reusable],
) -> PlannedCells:
    columns = len(config["prompts"]) * len(config["connections"])
    rows = sum(tally.rows for tally in tallies if tally.wanted)
    count = dict.fromkeys(Outcome, 0)
    for tally in tallies:
        count[tally.outcome] += tally.rows if tally.wanted and not tally.has_left else 0
    returned = sum(tally.rows for tally in tallies if tally.wanted and tally.has_left)
    finished = {outcome: count[outcome] for outcome in (Outcome.SUCCEEDED, Outcome.FAILED)}
    from_earlier = sum(part.cells for part in reused)
    return PlannedCells(
        added={"new bytes": new * columns, "no row yet": (documents - new) * columns - rows - from_earlier},
        superseded={outcome.value: count[outcome] for outcome in again}
        | ({"returned": returned} if returned else {}),
        kept=sum(cells for outcome, cells in finished.items() if outcome not in again),
        left_alone=rows - returned - sum(finished.values()),
        set_aside=sum(tally.rows for tally in tallies if not tally.wanted and not tally.withdrawn),
        from_earlier=from_earlier,
        earlier_batches=len({part.batch_id for part in reused}),
    )


def _work(
    config: dict[str, Any],
    documents: Collection[MeasuredDocument],
    tallies: Sequence[RowTally],
    again: Sequence[Outcome],
    reused: Sequence[Reusable],
) -> list[ConnectionWork]:
    """The evaluations that would be queued on each connection, and the total size of their documents."""
    prompts, size = len(config["prompts"]), sum(one.size for one in documents)
    work = []
    for connection in config["connections"]:
        own = [t for t in tallies if t.connection_id == connection["id"] and t.wanted]
        kept = [t for t in own if t.outcome not in again and not t.has_left]
        results = [r for r in reused if r.connection_id == connection["id"]]
        cells = len(documents) * prompts - sum(t.rows for t in kept) - sum(r.cells for r in results)
        together = size * prompts - sum(t.bytes for t in kept) - sum(r.bytes for r in results)
        work.append(ConnectionWork(connection["id"], connection["name"], cells, together))
    return work


def _notes_on_files(stored: _StoredState, scanned: Sequence[FoundFile]) -> list[str]:
    not_included = [file.filepath for file in scanned if file.reason == NOT_INCLUDED]
    usable = [file.filepath for file in scanned if file.state == ASSIGNED]
    folders = [folder["path"] for folder in stored.config["folders"]]
    on_patterns = notes_on_patterns(stored.config["batch"], not_included, usable, sealed=stored.is_sealed)
    return [*notes_on_nesting(folders), *on_patterns]


def _notes_on_sample(stored: _StoredState, documents: int) -> list[str]:
    """A note if a batch that is not staged yet has too few documents to tell its models apart."""
    if stored.has_only_changes or stored.batch.expected_cells is not None:
        # Documents that arrived since the last occurrence are as many as there are, and a sample says so.
        return []
    config = stored.config
    note = note_on_sample(documents, len(config["connections"]), config["batch"].get("margin"))
    return [] if note is None else [note]


def _notes(edited: Sequence[tuple[str, str]]) -> list[str]:
    return [
        f"{kind} {name!r} was edited after this batch was sealed; the batch keeps the old version: create "
        "a batch with another name to use the new one"
        for kind, name in edited
    ]
