"""Applies an evaluation, and looks at the folders of the batches that it leaves to be staged."""

import time
from collections import (
    Counter,
)
from collections.abc import (
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import (
    dataclass,
    field,
)
from typing import (
    Any,
)

from sqlalchemy import (
    text,
)

from doceval_pipeline.batches.databases import (
    Databases,
    database_errors,
)
from doceval_pipeline.batches.files.file_counts import (
    left_out,
    left_out_by_reason,
)
from doceval_pipeline.batches.files.folders import (
    found_files,
    notes_on_nesting,
    notes_on_patterns,
)
from doceval_pipeline.doc_eval.definitions.apply import (
    Applied,
    apply_evaluation,
)
from doceval_pipeline.doc_eval.definitions.evaluation_file import (
    Located,
)
from doceval_pipeline.doc_eval.files import (
    FoundFile,
    Tally,
)
from doceval_pipeline.doc_eval.recurring.definitions import (
    configured_folders,
    list_recurring,
)
from doceval_pipeline.doc_eval.recurring.record import (
    RecurringRecord,
)
from doceval_pipeline.documents.walk import (
    ASSIGNED,
    NOT_INCLUDED,
)
from doceval_pipeline.errors import (
    StagingError,
)
from doceval_pipeline.names import (
    normal,
)
from doceval_pipeline.reports.formatting import (
    counted,
)
from doceval_pipeline.settings import (
    Settings,
)

# An apply looks at what folders hold, but does not make anybody wait for millions of files.
MOST_ENTRIES = 100_000
MOST_SECONDS = 2.0

# From the database: a key that an evaluation file leaves out keeps its value. Sealed batches are frozen.
_CHOICES = text("""
    SELECT b.id, jsonb_build_object(
        'batch', jsonb_build_object('include', to_jsonb(b.include_patterns),
                                    'exclude', to_jsonb(b.exclude_patterns)),
        'folders', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', f.id, 'path', f.folder_path)
                                              ORDER BY f.id), '[]')
                    FROM batch_folders l JOIN folders f ON f.id = l.folder_id WHERE l.batch_id = b.id))
    FROM batches b WHERE b.id = ANY(:ids) AND b.config_snapshot IS NULL
""")


@dataclass(frozen=True)
class Preview:
    """What a look at the folders of a batch found; `whole` is False where there was no time for all."""

    tallies: list[Tally]
    whole: bool
    notes: list[str] = field(default_factory=list)

    @property
    def usable(self) -> int:
        """Files that staging would use."""
        return sum(tally.files for tally in self.tallies if tally.state == ASSIGNED)

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        found = f"{counted(self.usable, 'usable file', 'usable files')}; {left_out(self.tallies)}"
        return found if self.whole else f"{found}; the rest was not counted, staging reads all files"

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval apply --json` prints."""
        return {
            "usable": self.usable,
            **left_out_by_reason(self.tallies),
            "whole": self.whole,
            "notes": self.notes,
        }


def apply(databases: Databases, located: Located, stage: bool = False) -> tuple[Applied, dict[str, Preview]]:
    """Write an evaluation as `apply_evaluation` does, and look at the folders of batches that it changed.

    Returns what was done, and by name what is found now for each batch that is not sealed and that was
    written, or whose staging was asked for.

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
    """Look at the folders that batches would be sealed with now, within bounds for all of them together.

    Parameters
    ----------
    numbers
        The batches, each under the name that the result has it by; sealed ones are left out.
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        configs = dict(connection.execute(_CHOICES, {"ids": list(numbers.values())}).tuples().all())
    looking = _Bounded(MOST_ENTRIES, time.monotonic() + MOST_SECONDS)
    return {
        name: _preview(configs[number], databases.settings, looking)
        for name, number in numbers.items()
        if number in configs
    }


@dataclass(frozen=True)
class NextOccurrence:
    """A recurring evaluation that an apply named; where it changed, `found` is in its folders now."""

    record: RecurringRecord
    found: Preview | None


def next_occurrences(databases: Databases, applied: Applied) -> list[NextOccurrence]:
    """The recurring evaluations that an apply named, by name, with a look at the folders of changed ones.

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
        # A name is stored as it was first given, and read in any Unicode form.
        records = [record for record in list_recurring(connection) if normal(record.name) in named]
        configs = {
            record.id: {
                "batch": {"include": record.definition.include, "exclude": record.definition.exclude},
                "folders": configured_folders(connection, record.definition),
            }
            for record in records
            if normal(record.name) in changed
        }
    looking = _Bounded(MOST_ENTRIES, time.monotonic() + MOST_SECONDS)
    coming = []
    for record in records:
        found = _preview(configs[record.id], databases.settings, looking) if record.id in configs else None
        coming.append(NextOccurrence(record, found))
    return coming


class _Bounded:
    """Hands on what is found until there was enough of it, or enough time has passed."""

    def __init__(self, entries: int, deadline: float) -> None:
        self._entries = entries
        self._deadline = deadline
        self.was_cut = False

    def is_late(self) -> bool:
        """Whether the time has passed."""
        self.was_cut = self.was_cut or time.monotonic() > self._deadline
        return self.was_cut

    def of(self, found: Iterable[FoundFile]) -> Iterator[FoundFile]:
        """The entries that are still within the bounds."""
        for entry in found:
            if self._entries <= 0:
                self.was_cut = True
                return
            self._entries -= 1
            yield entry


def _preview(config: Mapping[str, Any], settings: Settings, looking: _Bounded) -> Preview:
    counts: Counter[tuple[str, str]] = Counter()
    not_included, usable = [], []
    notes = notes_on_nesting([folder["path"] for folder in config["folders"]])
    try:
        for entry in looking.of(found_files(config, settings, looking.is_late)):
            counts[entry.state, entry.reason or ""] += 1
            if entry.reason == NOT_INCLUDED:
                not_included.append(entry.filepath)
            elif entry.state == ASSIGNED:
                usable.append(entry.filepath)
    except StagingError as error:
        notes.append(str(error))
    tallies = [Tally(*key, files, 0) for key, files in sorted(counts.items())]
    notes += notes_on_patterns(config["batch"], not_included, usable, sealed=False)
    if not_included and not usable:
        notes.append(
            f"none of {counted(len(not_included), 'file', 'files')} matches include: patterns are those of "
            ".gitignore, one for each item, relative to the folder; { } and a leading ! choose nothing"
        )
    return Preview(tallies, not looking.was_cut, notes)
