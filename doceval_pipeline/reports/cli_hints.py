"""The commands that a page shows to copy. They work as shown, whatever the name of the batch is."""

import re
import shlex

from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline.reports.sanitize import visible_name

# The command line reads these as a number or a partition, not as a name.
_NUMBER = re.compile(r"(?:batch-)?\d+")
NAME_CHARACTERS = 80


def retry_command(data: ReportInput) -> str:
    """The command that adds an attempt for exactly the failed evaluations."""
    return f"doceval reprocess {batch_argument(data)} --failed"


def export_command(data: ReportInput) -> str:
    """The command that exports every current result of the batch; the page may show only some."""
    file = f"batch-{data.batch_id:06d}.parquet"
    return f"doceval export {batch_argument(data)} --format parquet --output {file}"


def documents_command(data: ReportInput) -> str:
    """The command that lists every file with its sha256."""
    return f"doceval documents {batch_argument(data)}"


def batch_argument(data: ReportInput) -> str:
    """The batch as one word of a shell: its name, or its partition where the name would not work.

    A name does not work if it has invisible characters, looks like an option or a number, or is too long to
    read.
    """
    name = data.name
    is_plain = name == visible_name(name) and 0 < len(name) <= NAME_CHARACTERS
    if not is_plain or name.startswith("-") or _NUMBER.fullmatch(name):
        return f"batch-{data.batch_id:06d}"
    return shlex.quote(name)
