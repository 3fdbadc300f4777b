"""Files of reports: their names, and how to keep, find and open them.

The name of a report contains a digest of its content, so that different reports have different names.
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

_LEADERBOARD_NAME = re.compile(r"leaderboard-[0-9a-f]{16}\.html")


def report_name(batch_id: int, content: bytes) -> str:
    """The file name of a report: the partition key and a digest of the content."""
    return f"{partition_key(batch_id)}-{hashlib.sha256(content).hexdigest()[:16]}.html"


def report_path(databases: Databases, name: str) -> Path:
    """The path of the report with the given file name."""
    return databases.settings.reports / name


def find_report(databases: Databases, batch: BatchRecord) -> Path | None:
    """The path of the newest report of a batch; None without a report."""
    if batch.report_file is None:
        return None
    path = report_path(databases, batch.report_file)
    return path if path.is_file() else None


def newest_report(databases: Databases, batch: BatchRecord) -> Path:
    """The path of the newest report of a batch.

    Raises
    ------
    BatchStateError
        The batch has no report; the message names the command that writes one.
    """
    path = find_report(databases, batch)
    if path is None:
        raise BatchStateError(f"{batch.key} has no report: run doceval report {batch.id}")
    return path


def batch_of_report(name: str) -> int | None:
    """The batch id in the file name of a report; None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return batch_id_of(match[1])
    except UnknownBatch:
        return None


def is_page_of_series(name: str) -> bool:
    """Whether a file name is that of a page of a series."""
    return _SERIES_NAME.fullmatch(name) is not None


def is_page_of_leaderboard(name: str) -> bool:
    """Whether a file name is that of a page of the leaderboard."""
    return _LEADERBOARD_NAME.fullmatch(name) is not None


def keep_report(databases: Databases, batch_id: int, content: bytes) -> Path:
    """Write a report to the folder of reports, under its name.

    Raises
    ------
    FileError
    """
    return keep_page(databases, report_name(batch_id, content), content)


def keep_page(databases: Databases, name: str, content: bytes) -> Path:
    """Write a page to the folder of reports.

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
    """Open the file of a report for reading; anything but a regular file is refused, even a link.

    Parameters
    ----------
    command
        The command that writes the newest report again, for the message.
    name
        A file name that `batch_of_report`, `is_page_of_series` or `is_page_of_leaderboard` accepts.

    Raises
    ------
    FileError
    """
    path = report_path(databases, name)
    again = f"run {command} to write the newest report again"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileError(f"report {path.name} cannot be read ({error.strerror}): {again}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"report {path.name} is not a regular file: {again}")
    return os.fdopen(descriptor, "rb")
