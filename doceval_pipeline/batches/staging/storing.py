"""Stores the contents of a batch's files: reads, looks up what is there, copies what is missing.

The work goes in portions of bounded memory, two at a time: while the server works on one, the files
of the other are read and hashed, and both may be copied at once. Each portion is committed in
KnowledgeDocuments first and recorded in doc_eval after; a portion that was stored but not recorded
is found again by its sha256 and costs nothing but the reading.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection, Engine

from doceval_pipeline.doc_eval.files import (
    StagedFile,
    UnstagedFile,
    mark_rejected,
    mark_staged,
    unstaged_files,
)
from doceval_pipeline.documents.reading import (
    DocumentRejected,
    Fingerprint,
    encoded_chunks,
    fingerprint,
)
from doceval_pipeline.errors import StagingError
from doceval_pipeline.knowledge.documents import (
    ContentArrived,
    NewDocument,
    copy_documents,
    correct_types,
    known_contents,
)

# A portion ends when it holds this many bytes, or this many files. Little work is cut smaller, so that
# all workers have some of it.
PORTION_BYTES = 8 * 1024 * 1024
SMALLEST_PORTION_BYTES = 512 * 1024
PORTION_FILES = 1_000
# Portions that are worked on at once. More bring nothing: the server is what limits.
WORKERS = 2
# Each further try finds what another process stored in between.
MOST_TRIES = 20

Progress = Callable[[int, int, int], None]
"""Told how many documents are done, how many there are, and how many bytes were read."""


@dataclass
class _Stored:
    """What became of the files of a portion, and the contents that were new, with their sizes in bytes."""

    staged: list[StagedFile] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)


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
    for stored in _side_by_side(partial(_store, knowledge, max_bytes), _portions(files)):
        with doc_eval.begin():
            mark_staged(doc_eval, batch_id, stored.staged)
            if stored.rejected:
                mark_rejected(doc_eval, batch_id, stored.rejected)
        copied += len(stored.new)
        copied_bytes += sum(stored.new)
        done += len(stored.staged) + len(stored.rejected)
        read_bytes += sum(file.size for file in stored.staged)
        progress(done, len(files), read_bytes)
    return copied, copied_bytes


def _portions(files: Sequence[UnstagedFile]) -> Iterator[list[UnstagedFile]]:
    """Cut files into portions by the sizes they had when they were found."""
    together = sum(file.size for file in files)
    most = min(PORTION_BYTES, max(SMALLEST_PORTION_BYTES, together // (2 * WORKERS)))
    portion: list[UnstagedFile] = []
    size = 0
    for file in files:
        if portion and (size + file.size > most or len(portion) >= PORTION_FILES):
            yield portion
            portion, size = [], 0
        portion.append(file)
        size += file.size
    if portion:
        yield portion


def _side_by_side(
    work: Callable[[list[UnstagedFile]], _Stored], portions: Iterator[list[UnstagedFile]]
) -> Iterator[_Stored]:
    """Work on a few portions at once; gives them in their order, and holds no more than those few."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="storing") as pool:
        begun: deque[Future[_Stored]] = deque()
        try:
            for portion in portions:
                begun.append(pool.submit(work, portion))
                if len(begun) > WORKERS:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for waiting in begun:
                waiting.cancel()


def _store(knowledge: Engine, max_bytes: int, files: list[UnstagedFile]) -> _Stored:
    """Read the files of a portion, and store the contents that are missing."""
    done = _Stored()
    small: list[tuple[UnstagedFile, Fingerprint]] = []
    held = 0
    for file in files:
        try:
            found = fingerprint(file.folder, file.raw_path, max_bytes)
            if found.content is None:
                _store_together(knowledge, [(file, found)], done)
            else:
                small.append((file, found))
                held += found.size
        except DocumentRejected as rejection:
            done.rejected[file.document_id] = rejection.reason
        if held >= PORTION_BYTES:
            # They have grown since they were found, or were just so many.
            _store_together(knowledge, small, done)
            small, held = [], 0
    _store_together(knowledge, small, done)
    return done


def _store_together(
    knowledge: Engine, files: Sequence[tuple[UnstagedFile, Fingerprint]], done: _Stored
) -> None:
    """Store the missing contents of some files in one transaction, each distinct one once."""
    if not files:
        return
    distinct = {found.sha256: (file, found) for file, found in files}
    missing = _copy_missing(knowledge, distinct)
    known = {sha256: distinct[sha256][1].content_type for sha256 in distinct.keys() - set(missing)}
    with knowledge.begin() as connection:
        if known:
            correct_types(connection, known)
        stored = known_contents(connection, list(distinct))
    done.new += [distinct[sha256][1].size for sha256 in missing]
    done.staged += [
        StagedFile(
            file.document_id,
            found.size,
            found.sha256,
            found.content_type,
            found.doc_type,
            stored[found.sha256],
        )
        for file, found in files
        if found.sha256 in stored
    ]


def _copy_missing(knowledge: Engine, distinct: dict[str, tuple[UnstagedFile, Fingerprint]]) -> Sequence[str]:
    """Copy the contents that are not stored yet; returns their sha256."""
    for _ in range(MOST_TRIES):
        try:
            with knowledge.begin() as connection:
                missing = sorted(distinct.keys() - known_contents(connection, list(distinct)))
                if missing:
                    copy_documents(connection, (_new_document(*distinct[sha256]) for sha256 in missing))
                return missing
        except ContentArrived:
            continue
    raise StagingError(
        "other processes kept storing the same documents at the same time: "
        "materialize again when they are done"
    )


def _new_document(file: UnstagedFile, found: Fingerprint) -> NewDocument:
    content = encoded_chunks(file.folder, file.raw_path, found)
    return NewDocument(found.sha256, found.size, found.content_type, found.doc_type, content)
