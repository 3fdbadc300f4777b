"""The export formats, and the function that writes all of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from doceval_pipeline.domain.export_record import ExportRecord
from doceval_pipeline.reports.exports.overview import NO_OVERVIEW, Overview
from doceval_pipeline.reports.exports.text import write_csv, write_jsonl


class Format(StrEnum):
    """A file format for records; its value is also the extension of the file name."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    XLSX = "xlsx"

    @property
    def is_stream(self) -> bool:
        """Whether the format is text that is written in order, and so can go to standard output."""
        return self in (Format.JSONL, Format.CSV)

    @property
    def has_overview(self) -> bool:
        """Whether the format shows an overview before the records."""
        return self is Format.XLSX


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """Numbers of records written and of texts cut; only xlsx cuts texts."""

    records: int
    cut: int = 0


def write_records(
    file: IO[bytes],
    format: Format,
    records: Iterable[ExportRecord],
    metadata: Mapping[str, str],
    overview: Overview = NO_OVERVIEW,
) -> RecordCounts:
    """Write records one by one, without keeping them in memory.

    Parameters
    ----------
    file
        Open for writing, with a name: some formats write temporary files to its folder.
    metadata
        Written to the file where the format supports metadata.
    overview
        Written before the records where the format has room for it; see `Format.has_overview`.

    Raises
    ------
    OSError
    """
    match format:
        case Format.JSONL:
            return RecordCounts(write_jsonl(file, records))
        case Format.CSV:
            return RecordCounts(write_csv(file, records))
        # Their libraries are slow to import, and only these formats need them.
        case Format.PARQUET:
            from doceval_pipeline.reports.exports.parquet import write_parquet

            return RecordCounts(write_parquet(file, records, metadata))
        case Format.XLSX:
            from doceval_pipeline.reports.exports.xlsx import write_xlsx

            count, cut = write_xlsx(file, records, metadata, overview)
            return RecordCounts(count, cut)
