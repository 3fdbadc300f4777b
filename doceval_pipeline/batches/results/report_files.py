"""The files of reports: their names, and how they are kept, found and opened; not what is in them.

A report is named after its batch and its content: what says something else has another name.
"""

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from doceval_pipeline.atomic_file import atomic_file, file_errors
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_id_of, partition_key
from doceval_pipeline.errors import BatchStateError, FileError, UnknownBatch

_NAME = re.compile(r"(batch-[0-9]{6,10})-[0-9a-f]{16}\.html")
_SERIES_NAME = re.compile(r"series-[0-9]{6,10}-[0-9a-f]{16}\.html")


def report_name(batch_id: int, content: bytes) -> str:
    """The name of the file of a report: the partition key, and a digest of all that the report says."""
    return f"{partition_key(batch_id)}-{hashlib.sha256(content).hexdigest()[:16]}.html"


def report_path(databases: Databases, name: str) -> Path:
    """Where the report of a name stands."""
    return databases.settings.reports / name


def find_report(databases: Databases, batch: BatchRecord) -> Path | None:
    """The file of the newest report of a batch; None where there is none."""
    if batch.report_file is None:
        return None
    path = report_path(databases, batch.report_file)
    return path if path.is_file() else None


def newest_report(databases: Databases, batch: BatchRecord) -> Path:
    """The file of the newest report of a batch.

    Raises
    ------
    BatchStateError
        There is none; names the command that writes it.
    """
    path = find_report(databases, batch)
    if path is None:
        raise BatchStateError(f"{batch.key} has no report: doceval report {batch.id} writes it")
    return path


def batch_of_report(name: str) -> int | None:
    """The batch in the name of a report's file; None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return batch_id_of(match[1])
    except UnknownBatch:
        return None


def is_page_of_series(name: str) -> bool:
    """Whether a file is named as the page of a series is."""
    return _SERIES_NAME.fullmatch(name) is not None


def keep_report(databases: Databases, batch_id: int, content: bytes) -> Path:
    """Put a report where the installation keeps reports, under its name.

    Raises
    ------
    FileError
    """
    return keep_page(databases, report_name(batch_id, content), content)


def keep_page(databases: Databases, name: str, content: bytes) -> Path:
    """Put a page where the installation keeps reports.

    Raises
    ------
    FileError
    """
    path = report_path(databases, name)
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, mode=0o644) as file:
        file.write(content)
    return path


def open_report(databases: Databases, command: str, name: str) -> BinaryIO:
    """Open the file of a report for reading; a link or anything else that is not a file is refused.

    Parameters
    ----------
    command
        The command that writes the newest again.
    name
        The name of a file, as `batch_of_report` and `is_page_of_series` know them.

    Raises
    ------
    FileError
    """
    path = report_path(databases, name)
    again = f"{command} writes the newest again"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileError(f"report {path.name} cannot be read ({error.strerror}): {again}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"report {path.name} is not a regular file: {again}")
    return os.fdopen(descriptor, "rb")
