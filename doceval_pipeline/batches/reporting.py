"""Writes the report of a batch, records that it stands, and opens reports for reading.

What it says is gathered in `gathering`; what it looks like is the business of `reports`.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.whole_file import file_errors, whole_file
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_id_of, partition_key
from doceval_pipeline.errors import BatchStateError, FileError, UnknownBatch
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html
from doceval_pipeline.reports.insights import NOTHING, Provenance
from doceval_pipeline.reports.model import ReportFigures

_REPORT_NAME = re.compile(r"(batch-[0-9]{6,10})-([0-9a-f]{16})\.html")
_RECORD_REPORT = text("""
    UPDATE batches SET reported_digest = :digest WHERE id = :batch_id AND archived_at IS NULL
""")


@dataclass(frozen=True)
class WrittenReport:
    """A report that stands on disk: where, what it says, and its size in bytes."""

    path: Path
    figures: ReportFigures
    digest: str
    size: int


def write_report(
    databases: Databases, batch_id: int, provenance: Provenance = NOTHING.provenance
) -> WrittenReport:
    """Write the report of a batch as it is now; the same input gives the same file.

    Parameters
    ----------
    provenance
        Which runs made what the batch consists of. Not the run that writes the report, or no two
        reports of the same results would be the same.

    Raises
    ------
    UnknownBatch, BatchStateError, FileError, DatabaseError
        BatchStateError where the batch has no sealed configuration yet, or is archived.
    """
    # Loading numpy takes a while, which most commands need not wait for.
    from doceval_pipeline.batches.gathering import gather

    with database_errors():
        data = gather(databases, batch_id, provenance)
        computed = figures(data)
        path = report_path(databases, batch_id, data.digest)
        with file_errors(path):
            content = render_html(data, computed, _cache(databases)).encode()
        keep_report(path, content)
        with databases.doc_eval.begin() as connection:
            connection.execute(_RECORD_REPORT, {"batch_id": batch_id, "digest": data.digest})
    return WrittenReport(path, computed, data.digest, len(content))


def report_path(databases: Databases, batch_id: int, digest: str) -> Path:
    """Where the report of a batch's results stands, by their digest."""
    return databases.settings.reports / f"{partition_key(batch_id)}-{digest}.html"


def newest_report(databases: Databases, batch: BatchRecord) -> Path:
    """The file of the newest report of a batch.

    Raises
    ------
    BatchStateError
        There is none; names the command that writes it.
    """
    path = None if batch.reported_digest is None else report_path(databases, batch.id, batch.reported_digest)
    if path is None or not path.is_file():
        raise BatchStateError(f"{batch.key} has no report: doceval report {batch.id} writes it")
    return path


def parse_report_name(name: str) -> tuple[int, str] | None:
    """The batch and the digest in the name of a report's file; None for any other name."""
    match = _REPORT_NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return batch_id_of(match[1]), match[2]
    except UnknownBatch:
        return None


def open_report(databases: Databases, batch_id: int, digest: str) -> BinaryIO:
    """Open the file of a report for reading; a link or anything else that is not a file is refused.

    Raises
    ------
    FileError
    """
    path = report_path(databases, batch_id, digest)
    again = f"doceval report {batch_id} writes the newest again"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileError(f"report {path.name} cannot be read ({error.strerror}): {again}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"report {path.name} is not a regular file: {again}")
    return os.fdopen(descriptor, "rb")


def keep_report(path: Path, content: bytes) -> None:
    """Put a report where the installation keeps reports.

    Raises
    ------
    FileError
    """
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, mode=0o644) as file:
        file.write(content)


def _cache(databases: Databases) -> Path:
    """The folder that keeps compiled templates; nobody else may write what we run."""
    folder = databases.settings.cache
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
