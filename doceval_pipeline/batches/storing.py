"""Stores the contents of a batch's files: reads, looks up what is there, copies what is missing.

The work goes in portions of bounded memory. Each portion is committed in KnowledgeDocuments first
and recorded in doc_eval after; a portion that was stored but not recorded is found again by its
sha256 and costs nothing but the reading.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, Engine

from doceval_pipeline.doc_eval.batch_documents import (
    StagedFile,
    UnstagedFile,
    mark_rejected,
    mark_staged,
    unstaged_files,
)
from doceval_pipeline.documents.reading import (
    DocumentRejected,
    Fingerprint,
    encode,
    encoded_chunks,
    fingerprint,
)
from doceval_pipeline.errors import StagingError
from doceval_pipeline.knowledge.bulk_load import ContentArrived, NewDocument, copy_documents, known_contents

# A portion ends when it holds this many bytes of small documents, or this many files.
PORTION_BYTES = 16 * 1024 * 1024
PORTION_FILES = 1_000
# Each further try finds what another process stored in between.
MOST_TRIES = 20

Progress = Callable[[int, int, int], None]
"""Told how many documents are done, how many there are, and how many bytes were read."""


@dataclass
class _Portion:
    """Files that are read and not yet stored, with the reasons of those that could not be read."""

    read: list[tuple[UnstagedFile, Fingerprint]] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    bytes_held: int = 0

    @property
    def full(self) -> bool:
        return self.bytes_held >= PORTION_BYTES or len(self.read) + len(self.rejected) >= PORTION_FILES


def store_missing(
    knowledge: Engine, doc_eval: Connection, batch_id: int, max_bytes: int, progress: Progress
) -> tuple[int, int]:
    """Store every assigned file of a batch that is not stored yet.

    Parameters
    ----------
    doc_eval
        The connection that holds the batch's lock, outside a transaction.
    max_bytes
        Larger files are rejected, even if they grew after they were assigned.

    Returns
    -------
    tuple[int, int]
        Contents copied into `docs` by this call, and their size in bytes before encoding.
    """
    with doc_eval.begin():
        files = unstaged_files(doc_eval, batch_id)
    copied = copied_bytes = done = read_bytes = 0
    progress(0, len(files), 0)
    for portion in _portions(files, max_bytes):
        new = _store(knowledge, portion)
        copied += len(new)
        copied_bytes += sum(fingerprint.size for fingerprint in new.values())
        done += len(portion.read) + len(portion.rejected)
        read_bytes += sum(fingerprint.size for _, fingerprint in portion.read)
        _record(knowledge, doc_eval, batch_id, portion)
        progress(done, len(files), read_bytes)
    return copied, copied_bytes


def _portions(files: Sequence[UnstagedFile], max_bytes: int) -> Iterator[_Portion]:
    portion = _Portion()
    for file in files:
        try:
            found = fingerprint(Path(file.folder), file.raw_path, max_bytes)
        except DocumentRejected as rejection:
            portion.rejected[file.document_id] = rejection.reason
        else:
            portion.read.append((file, found))
            portion.bytes_held += len(found.content or b"")
        if portion.full:
            yield portion
            portion = _Portion()
    if portion.read or portion.rejected:
        yield portion


def _store(knowledge: Engine, portion: _Portion) -> dict[str, Fingerprint]:
    """Store what is missing of a portion; files that changed meanwhile move to its rejected ones."""
    small = [(file, found) for file, found in portion.read if found.content is not None]
    new = _store_together(knowledge, small)
    for file, found in portion.read:
        if found.content is None:
            try:
                new |= _store_together(knowledge, [(file, found)])
            except DocumentRejected as rejection:
                portion.rejected[file.document_id] = rejection.reason
    portion.read = [(file, found) for file, found in portion.read if file.document_id not in portion.rejected]
    return new


def _store_together(
    knowledge: Engine, files: Sequence[tuple[UnstagedFile, Fingerprint]]
) -> dict[str, Fingerprint]:
    """Store the missing contents of some files in one transaction, each distinct one once."""
    if not files:
        return {}
    distinct = {found.sha256: (file, found) for file, found in files}
    for _ in range(MOST_TRIES):
        try:
            with knowledge.begin() as connection:
                missing = sorted(distinct.keys() - known_contents(connection, list(distinct)))
                if missing:
                    copy_documents(connection, (_new_document(*distinct[sha256]) for sha256 in missing))
                return {sha256: distinct[sha256][1] for sha256 in missing}
        except ContentArrived:
            continue
    raise StagingError(
        "other processes kept storing the same documents at the same time: "
        "materialize again when they are done"
    )


def _new_document(file: UnstagedFile, found: Fingerprint) -> NewDocument:
    if found.content is None:
        content = encoded_chunks(Path(file.folder), file.raw_path, found)
    else:
        content = iter((encode(found.content),))
    return NewDocument(found.sha256, found.size, found.content_type, found.doc_type, content)


def _record(knowledge: Engine, doc_eval: Connection, batch_id: int, portion: _Portion) -> None:
    with knowledge.connect() as connection:
        stored = known_contents(connection, [found.sha256 for _, found in portion.read])
    staged = [
        StagedFile(
            file.document_id,
            found.size,
            found.sha256,
            found.content_type,
            found.doc_type,
            stored[found.sha256],
        )
        for file, found in portion.read
        if found.sha256 in stored
    ]
    with doc_eval.begin():
        mark_staged(doc_eval, batch_id, staged)
        if portion.rejected:
            mark_rejected(doc_eval, batch_id, portion.rejected)
