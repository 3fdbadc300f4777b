"""Applies an evaluation, and previews the folders of the batches that wait to be staged."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.files.file_counts import left_out, left_out_by_reason
from doceval_pipeline.batches.files.folders import found_files, notes_on_nesting, notes_on_patterns
from doceval_pipeline.batches.staging.sample_size import note_on_sample
from doceval_pipeline.doc_eval.definitions.apply import Applied, apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import Located
from doceval_pipeline.doc_eval.files import FoundFile, Tally
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.doc_eval.recurring.stored import configured_folders, list_recurring
from doceval_pipeline.documents.walk import ASSIGNED, NOT_INCLUDED
from doceval_pipeline.errors import StagingError
from doceval_pipeline.names import normal
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.settings import Settings

# Bounds of a preview: an apply does not wait until millions of files are counted.
MOST_ENTRIES = 100_000
MOST_SECONDS = 2.0

# Read from the database, because a key that an evaluation file leaves out keeps its value. Sealed batches
# are left out.
_CHOICES = text("""
    SELECT b.id, jsonb_build_object(
        'batch', jsonb_build_object('include', to_jsonb(b.include_patterns),
                                    'exclude', to_jsonb(b.exclude_patterns)),
        'folders', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', f.id, 'path', f.folder_path)
                                              ORDER BY f.id), '[]')
                    FROM batch_folders l JOIN folders f ON f.id = l.folder_id WHERE l.batch_id = b.id),
        'connections', (SELECT count(*) FROM batch_connections l WHERE l.batch_id = b.id),
        'margin', b.margin) AS choice
    FROM batches b WHERE b.id = ANY(:ids) AND b.config_snapshot IS NULL
""")


@dataclass(frozen=True)
class Preview:
    """The files in the folders of a batch; `whole` is False if a bound ended the count."""

    tallies: list[Tally]
    whole: bool
    notes: list[str] = field(default_factory=list)

    @property
    def usable(self) -> int:
        """How many files staging would use."""
        return sum(tally.files for tally in self.tallies if tally.state == ASSIGNED)

    @property
    def sentence(self) -> str:
        """The counts, for people."""
        counts = f"{counted(self.usable, 'usable file', 'usable files')}; {left_out(self.tallies)}"
        return counts if self.whole else f"{counts}; the rest was not counted, but staging reads all files"

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval apply --json` prints."""
        return {
            "usable": self.usable,
            **left_out_by_reason(self.tallies),
            "whole": self.whole,
            "notes": self.notes,
        }


def apply(
    databases: Databases, located: Located, *, stage: bool = False
) -> tuple[Applied, dict[str, Preview]]:
    """Write an evaluation as `apply_evaluation` does, and preview the folders of the batches that it changed.

    Returns the changes, and by name a preview of each unsealed batch that was written or whose staging was
    requested.

    Raises
    ------
    EvaluationFileError, DatabaseError
    """
    applied = apply_evaluation(databases.doc_eval, located, stage=stage)
    changes = applied.batches
    names = {
        *(*changes.created, *changes.updated),
        *(*applied.staging_requested, *applied.staging_requested_again),
    }
    return applied, preview(databases, {name: n for name, n in applied.numbers.items() if name in names})


def preview(databases: Databases, numbers: Mapping[str, int]) -> dict[str, Preview]:
    """Preview the folders that batches would be sealed with now, within common bounds.

    Parameters
    ----------
    numbers
        The batches by the names that the result uses; sealed batches are left out.
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        rows = connection.execute(_CHOICES, {"ids": list(numbers.values())})
        configs = {row.id: row.choice for row in rows}
    bounds = _Bounds(MOST_ENTRIES, time.monotonic() + MOST_SECONDS)
    return {
        name: _with_note_on_sample(_preview(configs[number], databases.settings, bounds), configs[number])
        for name, number in numbers.items()
        if number in configs
    }


def _with_note_on_sample(found: Preview, config: Mapping[str, Any]) -> Preview:
    """The preview of a batch, with a note if it has too few documents to tell its models apart."""
    if not found.whole:
        return found
    note = note_on_sample(found.usable, config["connections"], config["margin"])
    return found if note is None else replace(found, notes=[*found.notes, note])


@dataclass(frozen=True)
class NextOccurrence:
    """A recurring evaluation that an apply names; `found` is a preview of its folders if it changed."""

    record: RecurringRecord
    found: Preview | None


def next_occurrences(databases: Databases, applied: Applied) -> list[NextOccurrence]:
    """The recurring evaluations that an apply names, by name, with previews of the folders of changed ones.

    Raises
    ------
    DatabaseError
    """
    changes = applied.recurring
    changed = {*changes.created, *changes.updated}
    named = changed | set(changes.unchanged)
    if not named:
        return []
    with database_errors(), databases.doc_eval.connect() as connection:
        # A name is stored in the Unicode form that it was first given in, and found in any form.
        records = [record for record in list_recurring(connection) if normal(record.name) in named]
        configs = {
            record.id: {
                "batch": {"include": record.definition.include, "exclude": record.definition.exclude},
                "folders": configured_folders(connection, record.definition),
            }
            for record in records
            if normal(record.name) in changed
        }
    bounds = _Bounds(MOST_ENTRIES, time.monotonic() + MOST_SECONDS)
    occurrences = []
    for record in records:
        config = configs.get(record.id)
        files_preview = None if config is None else _preview(config, databases.settings, bounds)
        occurrences.append(NextOccurrence(record, files_preview))
    return occurrences


class _Bounds:
    """Limits the number of entries and the time of a preview."""

    def __init__(self, entries: int, deadline: float) -> None:
        self._entries = entries
        self._deadline = deadline
        self.was_cut = False

    def is_late(self) -> bool:
        """Whether the time is up."""
        self.was_cut = self.was_cut or time.monotonic() > self._deadline
        return self.was_cut

    def limit(self, entries: Iterable[FoundFile]) -> Iterator[FoundFile]:
        """Yield entries while they are within the bounds."""
        for entry in entries:
            if self._entries <= 0:
                self.was_cut = True
                return
            self._entries -= 1
            yield entry


def _preview(config: Mapping[str, Any], settings: Settings, bounds: _Bounds) -> Preview:
    counts: Counter[tuple[str, str]] = Counter()
    not_included, usable = [], []
    notes = notes_on_nesting([folder["path"] for folder in config["folders"]])
    try:
        for entry in bounds.limit(found_files(config, settings, bounds.is_late)):
            counts[entry.state, entry.reason or ""] += 1
            if entry.reason == NOT_INCLUDED:
                not_included.append(entry.filepath)
            elif entry.state == ASSIGNED:
                usable.append(entry.filepath)
    except StagingError as error:
        notes.append(str(error))
    tallies = [Tally(state, reason, files, 0) for (state, reason), files in sorted(counts.items())]
    notes += notes_on_patterns(config["batch"], not_included, usable, sealed=False)
    if not_included and not usable:
        notes.append(
            f"none of {counted(len(not_included), 'file', 'files')} matches include: patterns follow "
            ".gitignore, one per item, relative to the folder; { } and a leading ! match nothing"
        )
    return Preview(tallies, not bounds.was_cut, notes)
