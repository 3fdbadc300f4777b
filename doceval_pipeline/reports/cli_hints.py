"""The commands that a page tells people to type. They work as they stand, whatever the batch is called."""

import re
import shlex

from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline.reports.sanitize import visible_name

# What the command line takes for a number or a partition, and not for a name.
_NUMBER = re.compile(r"(?:batch-)?\d+")
NAME_CHARACTERS = 80


def retry_command(data: ReportInput) -> str:
    """Adds an attempt for exactly the failed cells."""
    return f"doceval reprocess {batch_argument(data)} --failed"


def export_command(data: ReportInput) -> str:
    """Writes every current cell of the batch, of which the page may show only some."""
    file = f"batch-{data.batch_id:06d}.parquet"
    return f"doceval export {batch_argument(data)} --format parquet --output {file}"


def documents_command(data: ReportInput) -> str:
    """Lists every file with its sha256."""
    return f"doceval documents {batch_argument(data)}"


def batch_argument(data: ReportInput) -> str:
    """The batch as a shell's word: its name, or its partition where the name would not arrive as it is.

    A name does not where it holds characters that nobody sees, looks like an option or a number, or is too
    long to be read.
    """
    name = data.name
    plain = name == visible_name(name) and 0 < len(name) <= NAME_CHARACTERS
    if not plain or name.startswith("-") or _NUMBER.fullmatch(name):
        return f"batch-{data.batch_id:06d}"
    return shlex.quote(name)
