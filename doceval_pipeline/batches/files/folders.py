"""The folders of a batch: which ones may be walked, the files in them, and notes about both."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.doc_eval import files as batch_documents
from doceval_pipeline.doc_eval.files import FoundFile
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.documents.patterns import missed_by_case
from doceval_pipeline.documents.skipped_folders import (
    COUNTED_BY_ITSELF,
    OWN_FILES,
    Identity,
    SkippedFolders,
    identity_of,
    system_folders,
)
from doceval_pipeline.documents.walk import NOT_INCLUDED, SKIPPED, Entry, Rules, display_name, walk
from doceval_pipeline.errors import StagingError
from doceval_pipeline.object_urls import ObjectUrl, is_object_url, parse_object_url
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.settings import Settings


def found_files(
    config: Mapping[str, Any], settings: Settings, is_over: Callable[[], bool] = lambda: False
) -> Iterator[FoundFile]:
    """Every entry of the folders that a configuration names; each file once.

    Parameters
    ----------
    is_over
        As in `walk`.

    Raises
    ------
    StagingError
        A folder is missing, cannot be read, or belongs to doceval or to the system.
    """
    choice = config["batch"]
    system = system_folders()
    tops = [folder["path"] for folder in config["folders"]]
    urls = [parse_object_url(top) for top in tops if is_object_url(top)]
    rules = Rules(
        tuple(choice["include"]),
        tuple(choice["exclude"]),
        settings.max_document_bytes,
        _skipped_folders([Path(top) for top in tops if not is_object_url(top)], settings, system),
    )
    walked: set[Identity | ObjectUrl] = set()
    for folder in config["folders"]:
        folder_id, top = folder["id"], folder["path"]
        identity = parse_object_url(top) if is_object_url(top) else identity_of(top)
        if (problem := _problem(top, settings, system)) is not None:
            raise StagingError(f"folder {display_name(os.fsencode(top))} {problem}")
        if identity in walked:
            yield FoundFile(folder_id, b".", ".", SKIPPED, COUNTED_BY_ITSELF, None)
            continue
        if identity is not None:
            walked.add(identity)
        if isinstance(identity, ObjectUrl):
            entries = _objects(identity, rules, urls, is_over)
        else:
            entries = walk(Path(top), rules, is_over)
        for entry in entries:
            yield FoundFile(
                folder_id,
                raw_path=entry.path,
                filepath=display_name(entry.path),
                state=entry.state,
                reason=entry.reason,
                size=entry.size,
                modified_ns=entry.modified_ns,
                etag=entry.etag,
            )


def _objects(
    url: ObjectUrl, rules: Rules, urls: Sequence[ObjectUrl], is_over: Callable[[], bool]
) -> Iterator[Entry]:
    # Imported only if there is such a folder.
    from doceval_pipeline.documents.objects import walk_objects

    return walk_objects(url, rules, urls, is_over)


def folder_problems(settings: Settings) -> Callable[[str], str | None]:
    """A function that returns why a folder cannot hold documents; None if it can or does not exist."""
    system = system_folders()
    return lambda folder: _problem(folder, settings, system)


def notes_on_patterns(
    choice: Mapping[str, Sequence[str]], not_included: Iterable[str], usable: Iterable[str], *, sealed: bool
) -> list[str]:
    """Sentences on files that patterns do not match because upper and lower case differ.

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
            remedy = f"create a batch with another name whose {key} has" if sealed else f"add to {key}:"
            notes.append(
                f"{files} because of upper and lower case, such as {missed.example!r}: "
                f"{remedy} {missed.remedy}"
            )
    return notes


def notes_on_assigned(databases: Databases, batch_id: int) -> list[str]:
    """As `notes_on_patterns`, for the assigned files of a batch; empty before its configuration is sealed."""
    with database_errors(), databases.doc_eval.connect() as connection:
        sealed = read_snapshot(connection, batch_id)
        if sealed is None:
            return []
        choice = sealed.config["batch"]
        not_included = batch_documents.paths(connection, batch_id, NOT_INCLUDED)
        usable = batch_documents.paths(connection, batch_id)
        return notes_on_patterns(choice, not_included, usable, sealed=True)


def notes_on_nesting(folders: Sequence[str]) -> list[str]:
    """Sentences on folders of a batch that are inside another folder of it."""
    known = {identity: folder for folder in folders if (identity := identity_of(folder)) is not None}
    urls = [parse_object_url(folder) for folder in folders if is_object_url(folder)]
    nested = [
        *(
            (inner, known[above])
            for inner in folders
            if not is_object_url(inner)
            for above in _identities_above(inner)
            if above in known
        ),
        *((str(inner), str(outer)) for inner in urls for outer in urls if inner.is_inside(outer)),
    ]
    return [
        f"folder {inner!r} is inside {outer!r}: its files are counted once, as files of {inner!r}"
        for inner, outer in nested
    ]


def _skipped_folders(tops: Sequence[Path], settings: Settings, system: SkippedFolders) -> SkippedFolders:
    """The folders that no walk enters from a parent; the batch's own folders are walked separately."""
    reasons = dict(system.folders)
    for folders, reason in (
        ((settings.home, *settings.own_folders), OWN_FILES),
        (tops, COUNTED_BY_ITSELF),
    ):
        reasons |= {identity: reason for identity in map(identity_of, folders) if identity is not None}
    return SkippedFolders(reasons, system.devices)


def _problem(folder: str, settings: Settings, system: SkippedFolders) -> str | None:
    """Why a folder cannot hold documents; None if it can or does not exist."""
    if is_object_url(folder):
        from doceval_pipeline.documents.stores import problem_of_library

        return problem_of_library()
    identity = identity_of(folder)
    if identity is None:
        return None
    above = {identity, *_identities_above(folder)}
    if identity == identity_of(settings.home) or above & {*map(identity_of, settings.own_folders)}:
        return "holds doceval's own files (DOCEVAL_HOME): put the documents into a folder of their own"
    if any(system.reason(one) is not None for one in above):
        return "belongs to the system: name the folder that holds the documents"
    return None


def _identities_above(folder: str) -> list[Identity]:
    above = map(identity_of, Path(os.path.realpath(folder)).parents)
    return [identity for identity in above if identity is not None]
