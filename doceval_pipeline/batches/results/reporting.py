"""Writes the report of a batch, and records it in doc_eval.

`report_input` gathers the input; `reports` renders it.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from doceval_pipeline.atomic_file import file_errors
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.results.report_files import keep_report
from doceval_pipeline.domain.insights import NOTHING, Provenance
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.model import ReportFigures

_RECORD_REPORT = text("""
    UPDATE batches SET reported_digest = :digest, report_file = :file
    WHERE id = :batch_id AND archived_at IS NULL
""")


@dataclass(frozen=True)
class WrittenReport:
    """A report on disk: its path, its figures, the digest of its results, and its size in bytes."""

    path: Path
    figures: ReportFigures
    digest: str
    size: int


def write_report(
    databases: Databases, batch_id: int, provenance: Provenance = NOTHING.provenance
) -> WrittenReport:
    """Write the report of a batch as it is now; equal input gives an equal file.

    Parameters
    ----------
    provenance
        The runs that made the parts of the batch, without the run that writes the report: with it, no two
        reports of the same results would be equal.

    Raises
    ------
    UnknownBatch, BatchStateError, FileError, DatabaseError
        BatchStateError if the batch has no sealed configuration yet, or is archived.
    """
    # numpy and Jinja load slowly, and most commands and runs do not need them.
    from doceval_pipeline.batches.results.report_input import gather
    from doceval_pipeline.reports.html import render_html

    with database_errors():
        data = gather(databases, batch_id, provenance)
        computed = figures(data)
        with file_errors(databases.settings.cache):
            content = render_html(data, computed, template_cache(databases)).encode()
        path = keep_report(databases, batch_id, content)
        with databases.doc_eval.begin() as connection:
            connection.execute(
                _RECORD_REPORT, {"batch_id": batch_id, "digest": data.digest, "file": path.name}
            )
    return WrittenReport(path, computed, data.digest, len(content))


def template_cache(databases: Databases) -> Path:
    """The folder of compiled templates. It is private, because its contents are executed."""
    folder = databases.settings.cache
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
