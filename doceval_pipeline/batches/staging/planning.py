"""What staging or reprocessing a batch would do, found out before anything is written.

Files are read where what they hold is not known yet; nothing is stored, sealed or changed.
"""

from collections import (
    Counter,
)
from collections.abc import (
    Iterator,
    Sequence,
)
from dataclasses import (
    asdict,
    dataclass,
    field,
)
from datetime import (
    datetime,
)
from pathlib import (
    Path,
)
from typing import (
    Any,
)

from sqlalchemy import (
    Connection,
)

from doceval_pipeline.batches.databases import (
    Databases,
    database_errors,
)
from doceval_pipeline.batches.files.folders import (
    found_files,
    notes_on_assigned,
    notes_on_nesting,
    notes_on_patterns,
)
from doceval_pipeline.batches.files.listing import (
    list_files,
)
from doceval_pipeline.batches.staging.estimates import (
    ConnectionWork,
    WorkEstimate,
    estimate_work,
)
from doceval_pipeline.batches.staging.limits import (
    exceeded_limit,
)
from doceval_pipeline.batches.staging.recurring import (
    choose_files,
    remove_unchanged,
    require_references,
)
from doceval_pipeline.batches.staging.reprocessing import (
    OUTCOMES,
    Mode,
)
from doceval_pipeline.batches.staging.storing import (
    Progress,
)
from doceval_pipeline.doc_eval import (
    files as batch_documents,
)
from doceval_pipeline.doc_eval.batches import (
    BatchRecord,
    batch_by_id,
)
from doceval_pipeline.doc_eval.files import (
    FoundFile,
    Tally,
    UnstagedFile,
)
from doceval_pipeline.doc_eval.lifecycle import (
    Status,
)
from doceval_pipeline.doc_eval.recurring import (
    definitions as recurring,
)
from doceval_pipeline.doc_eval.recurring.occurrences import (
    has_only_changes,
)
from doceval_pipeline.doc_eval.recurring.record import (
    RecurringRecord,
)
from doceval_pipeline.doc_eval.snapshot import (
    compose,
    compose_questions,
    edited_since,
    read_snapshot,
)
from doceval_pipeline.documents.reading import (
    DocumentRejected,
    hash_document,
)
from doceval_pipeline.documents.walk import (
    ASSIGNED,
    NOT_INCLUDED,
)
from doceval_pipeline.domain.evaluations import (
    Outcome,
)
from doceval_pipeline.domain.recurring import (
    FileComparison,
    OccurrenceOutcome,
)
from doceval_pipeline.errors import (
    StagingError,
)
from doceval_pipeline.knowledge.documents import (
    known_contents,
)
from doceval_pipeline.knowledge.queue import (
    Reusable,
    RowTally,
    reusable,
    tally_rows,
)

_CHUNK = 5_000
# Batches are counted from 1.
NO_BATCH = 0


@dataclass(frozen=True)
class PlannedDocuments:
    """Distinct contents, and the files that are of no use, by reason.

    `added` are stored nowhere yet, `reused` are stored already, by this or another batch; `leaving`
    are the batch's now and would not be any more. Sizes in bytes.
    """

    added: int
    added_bytes: int
    reused: int
    reused_bytes: int
    leaving: int
    unusable: dict[str, int]


@dataclass(frozen=True)
class PlannedCells:
    """Cells by what becomes of them.

    `added` get their first row to be processed and `superseded` a new attempt, each by the reason why; two
    prompts with the same text are asked both, unless an earlier batch has the result.
    `kept` keep the result they have, `left_alone` wait or run, `set_aside` are of contents that leave.
    `from_earlier` get a first row with the result of one of `earlier_batches` batches.
    """

    added: dict[str, int]
    superseded: dict[str, int]
    kept: int
    left_alone: int
    set_aside: int
    from_earlier: int = 0
    earlier_batches: int = 0

    def as_json(self) -> dict[str, Any]:
        """Its shape in `doceval plan --json`, where `reused` are the kept ones."""
        return {"reused" if key == "kept" else key: value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Plan:
    """What would be done, what it is expected to take, and what a person should know besides."""

    batch: BatchRecord
    documents: PlannedDocuments
    cells: PlannedCells
    estimates: list[WorkEstimate]
    notes: list[str] = field(default_factory=list)
    held: str | None = None
    """The limit by which the batch would be held, as the end of a sentence."""

    def counts(self) -> dict[str, int]:
        """How many cells, new attempts and documents would be added."""
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
    """What the next occurrence of a recurring evaluation would be, if it were made now.

    `due_at` is None where no time comes: it is paused, or waits for arrivals; `timezone` is that of its
    schedule. `reason` says why no batch would be made; `documents`, `cells` and `estimates` are of the batch.
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
        """The shape that `doceval plan NAME --json` prints of a recurring evaluation."""
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


def plan(databases: Databases, batch_id: int, mode: Mode, new_look: bool, progress: Progress) -> Plan:
    """Find out what `stage`, or `reprocess` with `mode` and `new_look`, would do now.

    Parameters
    ----------
    progress
        Told of files that have to be read.

    Raises
    ------
    UnknownBatch, BatchStateError, StagingError, DatabaseError
        As the action itself would; StagingError where a folder is gone.
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        known_here = _read_doc_eval(connection, batch_id)
    batch, config = known_here.batch, known_here.config
    if batch.status not in (Status.SAVED, Status.FAILED_STAGING) or mode is not Mode.missing or new_look:
        batch.require_reprocessable()
    found = _found(databases, known_here, new_look)
    wanted, unusable = _wanted(known_here, found, databases.settings.max_document_bytes, progress)
    reuses = batch.reuse == "finished" and mode is not Mode.all
    work = _work_on(databases, batch_id, config, wanted, OUTCOMES[mode], reuses)
    documents = _documents(wanted, work.known, known_here.stored, unusable)
    held = None
    if batch.expected_cells is None:
        held = exceeded_limit(batch.max_documents, batch.max_cost, len(wanted), work.estimates)
    on_files = notes_on_assigned(databases, batch_id) if found is None else _notes_on_files(known_here, found)
    notes = [*_notes(known_here.edited), *on_files]
    return Plan(batch, documents, work.cells, work.estimates, notes, held)


def plan_occurrence(databases: Databases, record: RecurringRecord, progress: Progress) -> PlannedOccurrence:
    """Find out what the next occurrence of a recurring evaluation would make now.

    A folder that does not exist, or another reason why no batch would be made, is in the result.

    Parameters
    ----------
    progress
        Receives the progress of reading files.

    Raises
    ------
    UnknownRecurring, RecurringError, DatabaseError
        RecurringError where its definition cannot be used.
    """
    record.require_usable()
    try:
        current, files, reason, found, config = _next_files(databases, record)
    except StagingError as error:
        return _without_batch(record, str(error))
    folders = {folder["id"]: folder["path"] for folder in config["folders"]}
    unusable = Counter(file.reason or "" for file in found if file.state != ASSIGNED)
    unread = [(folders[file.folder_id], file.raw_path) for file in found if file.state == ASSIGNED]
    wanted: dict[str, int] = {}
    unusable.update(_read(unread, databases.settings.max_document_bytes, wanted, progress))
    definition = current.definition
    work = _work_on(databases, NO_BATCH, config, wanted, (), definition.reuse == "finished")
    held = exceeded_limit(definition.max_documents, definition.max_cost, len(wanted), work.estimates)
    return PlannedOccurrence(
        name=current.name,
        due_at=current.due_at or current.next_at,
        timezone=definition.timezone,
        outcome=OccurrenceOutcome.MADE if reason is None else OccurrenceOutcome.SKIPPED,
        reason=reason,
        files=files,
        documents=_documents(wanted, work.known, set(), dict(sorted(unusable.items()))),
        cells=work.cells,
        estimates=work.estimates,
        held=held,
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
    """A recurring evaluation as it is now, and the files and questions of a batch made of it now.

    Only a table of the transaction is written, so any role that may read can plan.
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
        found = batch_documents.found_now(connection) if reason is None else []
        questions = compose_questions(connection, definition.connections, definition.prompts)
    return current, files, reason, found, {"folders": folders, **questions}


@dataclass(frozen=True)
class _Work:
    """What is stored of the documents that a batch would have, and what becomes of its evaluations."""

    known: dict[str, int]
    cells: PlannedCells
    estimates: list[WorkEstimate]


def _work_on(
    databases: Databases,
    batch_id: int,
    config: dict[str, Any],
    wanted: dict[str, int],
    again: Sequence[Outcome],
    reuses: bool,
) -> _Work:
    """Compare the documents that a batch would have, by sha256 with sizes in bytes, with what is there."""
    with database_errors(), databases.knowledge.connect() as knowledge:
        known = _known(knowledge, list(wanted))
        asked = (batch_id, list(known.values()), config["prompts"], config["connections"])
        tallies = tally_rows(knowledge, *asked)
        taken = reusable(knowledge, *asked) if reuses else []
    with database_errors():
        estimates = estimate_work(databases, batch_id, _work(config, wanted, tallies, again, taken))
    cells = _cells(config, len(wanted), len(wanted) - len(known), tallies, again, taken)
    return _Work(known, cells, estimates)


def _found(databases: Databases, known: "_KnownHere", new_look: bool) -> list[FoundFile] | None:
    """The files that a batch's folders hold; None where it keeps the files that it was assigned."""
    if known.frozen and not new_look:
        return None
    found = list(found_files(known.config, databases.settings))
    if not known.keeps_to_its_files:
        return found
    return [file for file in found if (file.folder_id, file.raw_path) in known.usable]


@dataclass(frozen=True)
class _KnownHere:
    """What doc_eval knows of a batch: its choice, and its files if they were assigned."""

    batch: BatchRecord
    config: dict[str, Any]
    is_sealed: bool
    edited: list[tuple[str, str]]
    tallies: list[Tally]
    contents: dict[str, int]
    unstaged: list[UnstagedFile]
    stored: set[int]
    usable: set[tuple[int, bytes]]
    keeps_to_its_files: bool

    @property
    def frozen(self) -> bool:
        """Whether the assignment was made and holds anything usable."""
        return any(tally.state in ("ASSIGNED", "STAGED") for tally in self.tallies)


def _read_doc_eval(connection: Connection, batch_id: int) -> _KnownHere:
    batch = batch_by_id(connection, batch_id)
    sealed = read_snapshot(connection, batch_id)
    keeps = has_only_changes(connection, batch_id)
    return _KnownHere(
        batch=batch,
        config=compose(connection, batch_id) if sealed is None else sealed.config,
        is_sealed=sealed is not None,
        edited=[] if sealed is None else edited_since(connection, batch_id, sealed),
        tallies=batch_documents.tally(connection, batch_id),
        contents=batch_documents.staged_contents(connection, batch_id),
        unstaged=batch_documents.unstaged_files(connection, batch_id),
        stored=set(batch_documents.stored_ids(connection, batch_id)),
        usable=batch_documents.usable_files(connection, batch_id) if keeps else set(),
        keeps_to_its_files=keeps,
    )


def _wanted(
    known: _KnownHere, found: Sequence[FoundFile] | None, max_bytes: int, progress: Progress
) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of the contents that the batch would have, by sha256, and unusable files by reason."""
    wanted: dict[str, int] = {}
    unusable: Counter[str] = Counter()
    if found is None:
        wanted |= known.contents
        unusable.update({t.reason: t.files for t in known.tallies if t.state in ("SKIPPED", "REJECTED")})
        unread = [(file.folder, file.raw_path) for file in known.unstaged]
    else:
        folders = {folder["id"]: folder["path"] for folder in known.config["folders"]}
        if known.keeps_to_its_files:
            unusable.update({t.reason: t.files for t in known.tallies if t.state in ("SKIPPED", "REJECTED")})
        unusable.update(file.reason or "" for file in found if file.state != ASSIGNED)
        unread = [(folders[file.folder_id], file.raw_path) for file in found if file.state == ASSIGNED]
    unusable.update(_read(unread, max_bytes, wanted, progress))
    return wanted, dict(sorted(unusable.items()))


def _read(
    files: Sequence[tuple[str, bytes]], max_bytes: int, wanted: dict[str, int], progress: Progress
) -> Iterator[str]:
    """Add what files hold to `wanted`; yields the reason of each that cannot be used."""
    read_bytes = 0
    for done, (folder, path) in enumerate(files):
        progress(done, len(files), read_bytes)
        try:
            sha256, size = hash_document(Path(folder), path, max_bytes)
        except DocumentRejected as rejection:
            yield rejection.reason
        else:
            wanted[sha256] = size
            read_bytes += size
    if files:
        progress(len(files), len(files), read_bytes)


def _known(knowledge: Connection, sha256s: Sequence[str]) -> dict[str, int]:
    known: dict[str, int] = {}
    for begin in range(0, len(sha256s), _CHUNK):
        known |= known_contents(knowledge, sha256s[begin : begin + _CHUNK])
    return known


def _documents(
    wanted: dict[str, int], known: dict[str, int], current: set[int], unusable: dict[str, int]
) -> PlannedDocuments:
    added_bytes = sum(size for sha256, size in wanted.items() if sha256 not in known)
    return PlannedDocuments(
        added=len(wanted) - len(known),
        added_bytes=added_bytes,
        reused=len(known),
        reused_bytes=sum(wanted.values()) - added_bytes,
        leaving=len(current - set(known.values())),
        unusable=unusable,
    )


def _cells(
    config: dict[str, Any],
    contents: int,
    new: int,
    tallies: Sequence[RowTally],
    again: Sequence[Outcome],
    taken: Sequence[Reusable],
) -> PlannedCells:
    columns = len(config["prompts"]) * len(config["connections"])
    rows = sum(tally.rows for tally in tallies if tally.wanted)
    count = dict.fromkeys(Outcome, 0)
    for tally in tallies:
        count[tally.outcome] += tally.rows if tally.wanted and not tally.has_left else 0
    returned = sum(tally.rows for tally in tallies if tally.wanted and tally.has_left)
    finished = {outcome: count[outcome] for outcome in (Outcome.SUCCEEDED, Outcome.FAILED)}
    from_earlier = sum(part.cells for part in taken)
    return PlannedCells(
        added={"new bytes": new * columns, "no row yet": (contents - new) * columns - rows - from_earlier},
        superseded={outcome.value: count[outcome] for outcome in again}
        | ({"returned": returned} if returned else {}),
        kept=sum(cells for outcome, cells in finished.items() if outcome not in again),
        left_alone=rows - returned - sum(finished.values()),
        set_aside=sum(tally.rows for tally in tallies if not tally.wanted and not tally.withdrawn),
        from_earlier=from_earlier,
        earlier_batches=len({part.batch_id for part in taken}),
    )


def _work(
    config: dict[str, Any],
    wanted: dict[str, int],
    tallies: Sequence[RowTally],
    again: Sequence[Outcome],
    taken: Sequence[Reusable],
) -> list[ConnectionWork]:
    """The cells that would be queued on each connection, and the sizes of their documents together."""
    prompts, size = len(config["prompts"]), sum(wanted.values())
    work = []
    for connection in config["connections"]:
        own = [t for t in tallies if t.connection_id == connection["id"] and t.wanted]
        kept = [t for t in own if t.outcome not in again and not t.has_left]
        reused = [r for r in taken if r.connection_id == connection["id"]]
        cells = len(wanted) * prompts - sum(t.rows for t in kept) - sum(r.cells for r in reused)
        together = size * prompts - sum(t.bytes for t in kept) - sum(r.bytes for r in reused)
        work.append(ConnectionWork(connection["id"], connection["name"], cells, together))
    return work


def _notes_on_files(known: _KnownHere, found: Sequence[FoundFile]) -> list[str]:
    not_included = [file.filepath for file in found if file.reason == NOT_INCLUDED]
    usable = [file.filepath for file in found if file.state == ASSIGNED]
    folders = [folder["path"] for folder in known.config["folders"]]
    on_patterns = notes_on_patterns(known.config["batch"], not_included, usable, known.is_sealed)
    return [*notes_on_nesting(folders), *on_patterns]


def _notes(edited: Sequence[tuple[str, str]]) -> list[str]:
    return [
        f"changed {kind}: {name!r} was edited since this batch was sealed, which keeps the old one: "
        "make a batch of another name to evaluate with the new one"
        for kind, name in edited
    ]
