"""The folders of a batch: which ones may be walked, what is found in them, and a look at them beforehand."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.file_counts import left_out, left_out_by_reason
from doceval_pipeline.doc_eval import batch_documents
from doceval_pipeline.doc_eval.batch_documents import FoundFile, Tally
from doceval_pipeline.doc_eval.evaluation_file import Located
from doceval_pipeline.doc_eval.snapshot import compose, read_snapshot
from doceval_pipeline.doc_eval.yaml_text import Mistake
from doceval_pipeline.documents.barred import (
    COUNTED_BY_ITSELF,
    OWN_FILES,
    Barred,
    Identity,
    identity_of,
    system_folders,
)
from doceval_pipeline.documents.patterns import missed_by_case
from doceval_pipeline.documents.walk import ASSIGNED, NOT_INCLUDED, SKIPPED, Rules, display_name, walk
from doceval_pipeline.errors import StagingError
from doceval_pipeline.reports.numbers import counted
from doceval_pipeline.settings import Settings

# An apply looks at what folders hold, but does not make anybody wait for millions of files.
MOST_ENTRIES = 100_000
MOST_SECONDS = 2.0


def found_files(config: Mapping[str, Any], settings: Settings) -> Iterator[FoundFile]:
    """Every entry of the folders that a configuration names, as it is now; each file once.

    Raises
    ------
    StagingError
        A folder is missing, cannot be read, or holds files that are nobody's documents.
    """
    choice = config["batch"]
    system = system_folders()
    tops = [(folder["id"], Path(folder["path"])) for folder in config["folders"]]
    rules = Rules(
        tuple(choice["include"]),
        tuple(choice["exclude"]),
        settings.max_document_bytes,
        _barred([path for _, path in tops], settings, system),
    )
    walked: set[Identity] = set()
    for number, path in tops:
        identity = identity_of(path)
        if (problem := _problem(path, settings, system)) is not None:
            raise StagingError(f"folder {display_name(os.fsencode(path))} {problem}")
        if identity in walked:
            yield FoundFile(number, b".", ".", SKIPPED, COUNTED_BY_ITSELF, None)
            continue
        if identity is not None:
            walked.add(identity)
        for entry in walk(path, rules):
            yield FoundFile(
                number, entry.path, display_name(entry.path), entry.state, entry.reason, entry.size
            )


def with_folder_mistakes(located: Located, settings: Settings) -> Located:
    """An evaluation whose mistakes include folders of doceval's own files and of the system."""
    found, system = [], system_folders()
    for number, batch in enumerate(located.evaluation.batches):
        # An invalid batch may have none.
        for position, folder in enumerate(getattr(batch, "folders", ())):
            if (problem := _problem(Path(folder), settings, system)) is not None:
                place = ("batches", number, "folders", position)
                found.append(Mistake(place, f"folder {folder!r} {problem}"))
    return replace(located, mistakes=(*located.mistakes, *found))


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
        return found if self.whole else f"{found}; more was not looked at, staging does"

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval apply --json` prints."""
        return {
            "usable": self.usable,
            **left_out_by_reason(self.tallies),
            "whole": self.whole,
            "notes": self.notes,
        }


def preview(databases: Databases, numbers: Mapping[str, int]) -> dict[str, Preview]:
    """Look at the folders that batches would be sealed with now, within bounds for all of them together.

    Parameters
    ----------
    numbers
        The batches, each under the name that the result has it by.
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        # A key that an evaluation file leaves out keeps its value, so that the file is not enough.
        configs = {name: compose(connection, number) for name, number in numbers.items()}
    looking = _Bounded(MOST_ENTRIES, time.monotonic() + MOST_SECONDS)
    return {name: _preview(config, databases.settings, looking) for name, config in configs.items()}


def notes_on_patterns(
    choice: Mapping[str, Sequence[str]], not_included: Iterable[str], usable: Iterable[str], sealed: bool
) -> list[str]:
    """Sentences on files that patterns miss because upper and lower case differ.

    Parameters
    ----------
    choice
        The patterns under `include` and `exclude`.
    not_included, usable
        Paths of files below their folders.
    sealed
        Whether the patterns can no longer be changed.
    """
    notes = []
    for key, paths, what in (
        ("include", not_included, ("is left out by include", "are left out by include")),
        ("exclude", usable, ("is not left out by exclude", "are not left out by exclude")),
    ):
        missed = missed_by_case(choice[key], paths) if choice[key] else None
        if missed is not None:
            files = counted(missed.files, f"file {what[0]}", f"files {what[1]}")
            remedy = f"make a batch of another name whose {key} has" if sealed else f"add to {key}:"
            notes.append(
                f"{files} because of upper and lower case, such as {missed.example!r}: "
                f"{remedy} {missed.remedy}"
            )
    return notes


def notes_on_assigned(databases: Databases, batch_id: int) -> list[str]:
    """As `notes_on_patterns`, of the files that a batch has; none before its configuration is sealed."""
    with database_errors(), databases.doc_eval.connect() as connection:
        sealed = read_snapshot(connection, batch_id)
        if sealed is None:
            return []
        choice = sealed.config["batch"]
        not_included = batch_documents.paths(connection, batch_id, NOT_INCLUDED)
        return notes_on_patterns(choice, not_included, batch_documents.paths(connection, batch_id), True)


def notes_on_nesting(folders: Sequence[str]) -> list[str]:
    """Sentences on folders of a batch that are inside another one of it."""
    itself = {folder: identity_of(folder) for folder in folders}
    above = {folder: set(_identities_above(Path(folder))) for folder in folders}
    return [
        f"folder {inner!r} is inside {outer!r}: its files are counted once, as files of {inner!r}"
        for inner in folders
        for outer in folders
        if inner != outer and itself[outer] in above[inner]
    ]


def _barred(tops: Sequence[Path], settings: Settings, system: Barred) -> Barred:
    """The folders that no walk enters from above; those of the batch are walked by themselves."""
    reasons = dict(system.folders)
    for folders, reason in (
        ((settings.home, *settings.own_folders), OWN_FILES),
        (tops, COUNTED_BY_ITSELF),
    ):
        reasons |= {identity: reason for identity in map(identity_of, folders) if identity is not None}
    return Barred(reasons, system.devices)


def _problem(folder: Path, settings: Settings, system: Barred) -> str | None:
    """Why a folder cannot be one of documents; None where it can, or where it is not there."""
    identity = identity_of(folder)
    if identity is None:
        return None
    above = {identity, *_identities_above(folder)}
    if identity == identity_of(settings.home) or above & {*map(identity_of, settings.own_folders)}:
        return (
            "holds doceval's own files (DOCEVAL_HOME): put the documents into a folder of their own and name "
            "that"
        )
    if system.reason(identity) is not None:
        return "belongs to the system and holds no documents: name the folder that does"
    return None


def _identities_above(folder: Path) -> list[Identity]:
    above = map(identity_of, Path(os.path.realpath(folder)).parents)
    return [identity for identity in above if identity is not None]


class _Bounded:
    """Hands on what is found until there was enough of it, or enough time has passed."""

    def __init__(self, entries: int, deadline: float) -> None:
        self._entries = entries
        self._deadline = deadline

    @property
    def is_over(self) -> bool:
        """Whether nothing more is handed on."""
        return self._entries <= 0 or time.monotonic() > self._deadline

    def of(self, found: Iterable[FoundFile]) -> Iterator[FoundFile]:
        """The entries that are still within the bounds."""
        for entry in found:
            if self.is_over:
                return
            self._entries -= 1
            yield entry


def _preview(config: Mapping[str, Any], settings: Settings, looking: _Bounded) -> Preview:
    counts: Counter[tuple[str, str]] = Counter()
    not_included, usable = [], []
    notes = notes_on_nesting([folder["path"] for folder in config["folders"]])
    try:
        for entry in looking.of(found_files(config, settings)):
            counts[entry.state, entry.reason or ""] += 1
            if entry.reason == NOT_INCLUDED:
                not_included.append(entry.filepath)
            elif entry.state == ASSIGNED:
                usable.append(entry.filepath)
    except StagingError as error:
        notes.append(str(error))
    notes += notes_on_patterns(config["batch"], not_included, usable, sealed=False)
    tallies = [Tally(*key, files, 0) for key, files in sorted(counts.items())]
    return Preview(tallies, not looking.is_over, notes)
