"""Stores the documents of a batch's files: reads the files, and copies documents that are not stored yet.

The files are processed in portions of bounded memory, two at a time: while the server works on one portion,
the files of the other are read and hashed, and both may be copied at once. Each portion is committed in
KnowledgeDocuments first and recorded in doc_eval after that. A portion that was stored but not recorded is
found again by its sha256, and is only read once more.
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
from doceval_pipeline.documents.reading import DocumentRejected, ReadDocument, encoded_chunks, read_document
from doceval_pipeline.errors import StagingError
from doceval_pipeline.knowledge.documents import (
    DocumentArrived,
    NewDocument,
    copy_documents,
    correct_types,
    find_documents,
)

# A portion ends at this many bytes or this many files. Few files make smaller portions, so that every worker
# gets some.
PORTION_BYTES = 8 * 1024 * 1024
SMALLEST_PORTION_BYTES = 512 * 1024
PORTION_FILES = 1_000
# Portions that are processed at once. More are not faster: the server is the limit.
WORKERS = 2
# Each further try finds the documents that another process stored meanwhile.
MOST_TRIES = 20

Progress = Callable[[int, int, int], None]
"""Receives the number of files that are done, the number of all files, and the bytes read so far."""


@dataclass
class _PortionResult:
    """The files of a portion by result, and the sizes in bytes of its new documents."""

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
        How many documents this call copied into `docs`, and their size in bytes before encoding.
    """
    with doc_eval.begin():
        files = unstaged_files(doc_eval, batch_id)
    copied = copied_bytes = done = read_bytes = 0
    progress(0, len(files), 0)
    for stored in _in_parallel(partial(_store, knowledge, max_bytes), _portions(files)):
        with doc_eval.begin():
            mark_staged(doc_eval, batch_id, stored.staged)
            if stored.rejected:
                mark_rejected(doc_eval, batch_id, stored.rejected)
        copied += len(stored.new)
        copied_bytes += sum(stored.new)
        done += len(stored.staged) + len(stored.rejected)
        read_bytes += sum(file.document.size for file in stored.staged)
        progress(done, len(files), read_bytes)
    return copied, copied_bytes


def _portions(files: Sequence[UnstagedFile]) -> Iterator[list[UnstagedFile]]:
    """Cut files into portions by the sizes that the walk of the folders found."""
    total = sum(file.size for file in files)
    most = min(PORTION_BYTES, max(SMALLEST_PORTION_BYTES, total // (2 * WORKERS)))
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


def _in_parallel(
    work: Callable[[list[UnstagedFile]], _PortionResult], portions: Iterator[list[UnstagedFile]]
) -> Iterator[_PortionResult]:
    """Process a few portions at once, and yield their results in order; holds no more portions in memory."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="storing") as pool:
        started: deque[Future[_PortionResult]] = deque()
        try:
            for portion in portions:
                started.append(pool.submit(work, portion))
                if len(started) > WORKERS:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()
        finally:
            for waiting in started:
                waiting.cancel()


def _store(knowledge: Engine, max_bytes: int, files: list[UnstagedFile]) -> _PortionResult:
    """Read the files of a portion, and store the documents that are missing."""
    done = _PortionResult()
    small: list[tuple[UnstagedFile, ReadDocument]] = []
    small_bytes = 0
    for file in files:
        try:
            read = read_document(file.folder, file.raw_path, max_bytes)
            if read.content is None:
                _store_together(knowledge, [(file, read)], done)
            else:
                small.append((file, read))
                small_bytes += read.fingerprint.size
        except DocumentRejected as rejection:
            done.rejected[file.file_id] = rejection.reason
        if small_bytes >= PORTION_BYTES:
            # The files have grown since the walk.
            _store_together(knowledge, small, done)
            small, small_bytes = [], 0
    _store_together(knowledge, small, done)
    return done


def _store_together(
    knowledge: Engine, files: Sequence[tuple[UnstagedFile, ReadDocument]], done: _PortionResult
) -> None:
    """Store the missing documents of the given files in one transaction, each distinct one once."""
    if not files:
        return
    distinct = {read.fingerprint.sha256: (file, read) for file, read in files}
    missing = _copy_missing(knowledge, distinct)
    known = {
        sha256: distinct[sha256][1].fingerprint.content_type for sha256 in distinct.keys() - set(missing)
    }
    with knowledge.begin() as connection:
        if known:
            correct_types(connection, known)
        stored = find_documents(connection, list(distinct))
    done.new += [distinct[sha256][1].fingerprint.size for sha256 in missing]
    done.staged += [
        StagedFile(file.file_id, read.fingerprint, stored[read.fingerprint.sha256])
        for file, read in files
        if read.fingerprint.sha256 in stored
    ]


def _copy_missing(knowledge: Engine, distinct: dict[str, tuple[UnstagedFile, ReadDocument]]) -> Sequence[str]:
    """Copy the documents that are not stored yet; returns their sha256."""
    for _ in range(MOST_TRIES):
        try:
            with knowledge.begin() as connection:
                missing = sorted(distinct.keys() - find_documents(connection, list(distinct)))
                if missing:
                    copy_documents(connection, (_new_document(*distinct[sha256]) for sha256 in missing))
                return missing
        except DocumentArrived:
            continue
    raise StagingError(
        "other processes kept storing the same documents at the same time: materialize again when they have "
        "finished"
    )


def _new_document(file: UnstagedFile, read: ReadDocument) -> NewDocument:
    return NewDocument(read.fingerprint, encoded_chunks(file.folder, file.raw_path, read))
