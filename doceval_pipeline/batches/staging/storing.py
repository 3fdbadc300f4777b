"""Stores the documents of a batch's files: reads the files, and copies documents that are not stored yet.

The files are processed in portions of bounded memory, two at a time: while the server works on one portion,
the files of the other are read and hashed, and both may be copied at once. Objects on object storage are read
several at a time, because each one is waited for. Each portion is committed in
KnowledgeDocuments first and recorded in doc_eval after that. A portion that was stored but not recorded is
found again by its sha256, and is only read once more.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path

from sqlalchemy import Connection, Engine

from doceval_pipeline.doc_eval.files import (
    StagedFile,
    UnstagedFile,
    mark_rejected,
    mark_staged,
    tally,
    unstaged_files,
)
from doceval_pipeline.documents.reading import DocumentRejected, LastFolder, ReadDocument
from doceval_pipeline.documents.sources import encoded_chunks, read_document
from doceval_pipeline.documents.walk import VANISHED, require_files
from doceval_pipeline.errors import StagingError
from doceval_pipeline.knowledge.documents import (
    DocumentArrived,
    NewDocument,
    copy_documents,
    correct_types,
    find_documents,
    take_ids,
)
from doceval_pipeline.object_urls import is_object_url
from doceval_pipeline.portions import Progress, in_parallel

# A portion ends at this many bytes or this many files. Few files make smaller portions, so that every worker
# gets some.
PORTION_BYTES = 8 * 1024 * 1024
SMALLEST_PORTION_BYTES = 512 * 1024
PORTION_FILES = 1_000
# Files whose names are in memory.
PAGE_FILES = 5_000
# Portions that are processed at once. More are not faster: the server is the limit.
WORKERS = 2
# Each further try finds the documents that another process stored meanwhile.
MOST_TRIES = 20


@dataclass
class _PortionResult:
    """The files of a portion by result, and the sizes in bytes of its new documents."""

    staged: list[StagedFile] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)


def store_missing(
    knowledge: Engine, doc_eval: Connection, batch_id: int, max_bytes: int, readers: int, progress: Progress
) -> tuple[int, int]:
    """Store every assigned file of a batch that is not stored yet.

    Parameters
    ----------
    doc_eval
        The connection that holds the batch's lock, outside a transaction.
    max_bytes
        Larger files are rejected, even if they grew after they were assigned.
    readers
        How many objects on object storage are read at once.

    Returns
    -------
    tuple[int, int]
        How many documents this call copied into `docs`, and their size in bytes before encoding.
    """
    with doc_eval.begin():
        waiting = [each for each in tally(doc_eval, batch_id) if each.state == "ASSIGNED"]
    files = sum(each.files for each in waiting)
    copied = copied_bytes = done = read_bytes = 0
    progress(0, files, 0)
    portions = _portions(_unstaged(doc_eval, batch_id), sum(each.bytes for each in waiting))
    # Its threads start with the first object.
    with ThreadPoolExecutor(readers, thread_name_prefix="reading") as pool:
        for stored in in_parallel(partial(_store, knowledge, max_bytes, pool), portions, WORKERS):
            with doc_eval.begin():
                mark_staged(doc_eval, batch_id, stored.staged)
                if stored.rejected:
                    mark_rejected(doc_eval, batch_id, stored.rejected)
            copied += len(stored.new)
            copied_bytes += sum(stored.new)
            done += len(stored.staged) + len(stored.rejected)
            read_bytes += sum(file.document.size for file in stored.staged)
            progress(done, files, read_bytes)
    return copied, copied_bytes


def _unstaged(doc_eval: Connection, batch_id: int) -> Iterator[UnstagedFile]:
    """The files that are not stored yet, read a page at a time in transactions of their own."""
    after = 0
    while True:
        with doc_eval.begin():
            page = unstaged_files(doc_eval, batch_id, after, PAGE_FILES)
        yield from page
        if len(page) < PAGE_FILES:
            return
        after = page[-1].file_id


def _portions(files: Iterable[UnstagedFile], total: int) -> Iterator[list[UnstagedFile]]:
    """Cut files into portions by the sizes that the walk of the folders found; `total` in bytes."""
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


def _store(
    knowledge: Engine, max_bytes: int, pool: ThreadPoolExecutor, files: list[UnstagedFile]
) -> _PortionResult:
    """Read the files of a portion, and store the documents that are missing."""
    done = _PortionResult()
    small: list[tuple[UnstagedFile, ReadDocument]] = []
    small_bytes = 0
    with LastFolder() as last, _reading_ahead(pool, max_bytes, files) as ahead:
        for file in files:
            try:
                begun = ahead.popleft() if is_object_url(file.folder) else None
                read = begun.result() if begun else read_document(*_as_found(file, max_bytes), last)
                if read.content is None:
                    _store_together(knowledge, [(file, read)], done)
                else:
                    small.append((file, read))
                    small_bytes += read.fingerprint.size
            except DocumentRejected as rejection:
                if rejection.reason == VANISHED and not is_object_url(file.folder):
                    require_files(Path(file.folder))
                done.rejected[file.file_id] = rejection.reason
            if small_bytes >= PORTION_BYTES:
                # The files have grown since the walk.
                _store_together(knowledge, small, done)
                small, small_bytes = [], 0
    _store_together(knowledge, small, done)
    return done


@contextmanager
def _reading_ahead(
    pool: ThreadPoolExecutor, max_bytes: int, files: Iterable[UnstagedFile]
) -> Iterator[deque[Future[ReadDocument]]]:
    """The reading of the objects among the files, in their order; what has not begun at the end is given up.

    Memory holds the objects of one portion, because an object of another size than listed is not read.
    """
    ahead = deque(
        pool.submit(read_document, *_as_found(file, max_bytes))
        for file in files
        if is_object_url(file.folder)
    )
    try:
        yield ahead
    finally:
        for waiting in ahead:
            waiting.cancel()


def _as_found(file: UnstagedFile, max_bytes: int) -> tuple[str, bytes, int, str | None]:
    return file.folder, file.raw_path, max_bytes, file.etag


def _store_together(
    knowledge: Engine, files: Sequence[tuple[UnstagedFile, ReadDocument]], done: _PortionResult
) -> None:
    """Store the missing documents of the given files in one transaction, each distinct one once."""
    if not files:
        return
    distinct = {read.fingerprint.sha256: (file, read) for file, read in files}
    ids, missing = _copy_missing(knowledge, distinct)
    known = {sha256: distinct[sha256][1].fingerprint.content_type for sha256 in ids.keys() - set(missing)}
    if known:
        with knowledge.begin() as connection:
            correct_types(connection, known)
    done.new += [distinct[sha256][1].fingerprint.size for sha256 in missing]
    done.staged += [
        StagedFile(file.file_id, read.fingerprint, ids[read.fingerprint.sha256]) for file, read in files
    ]


def _copy_missing(
    knowledge: Engine, distinct: dict[str, tuple[UnstagedFile, ReadDocument]]
) -> tuple[dict[str, int], list[str]]:
    """Copy the documents that are not stored yet.

    Returns the `docs.id` of all documents by sha256, and the sha256 of those that were copied.
    """
    for _ in range(MOST_TRIES):
        try:
            with knowledge.begin() as connection:
                ids = find_documents(connection, list(distinct))
                missing = sorted(distinct.keys() - ids)
                return {**ids, **_copy(connection, {sha256: distinct[sha256] for sha256 in missing})}, missing
        except DocumentArrived:
            continue
    raise StagingError(
        "other processes kept storing the same documents at the same time: materialize again when they have "
        "finished"
    )


def _copy(connection: Connection, missing: dict[str, tuple[UnstagedFile, ReadDocument]]) -> Mapping[str, int]:
    """Copy documents, given by sha256 in its order; returns their `docs.id`."""
    if not missing:
        return {}
    ids = take_ids(connection, len(missing))
    documents = (
        NewDocument(read.fingerprint, encoded_chunks(file.folder, file.raw_path, read), number)
        for (file, read), number in zip_longest(missing.values(), ids)
    )
    copy_documents(connection, documents, with_ids=bool(ids))
    return dict(zip(missing, ids, strict=True)) if ids else find_documents(connection, list(missing))
