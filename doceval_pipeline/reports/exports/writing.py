"""The formats of an export, and one function that writes each of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from doceval_pipeline.reports.exports.csv import write_csv
from doceval_pipeline.reports.exports.jsonl import write_jsonl
from doceval_pipeline.reports.exports.record import Record


class Format(StrEnum):
    """What records can be written as; each is the ending of a file's name too."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    XLSX = "xlsx"

    @property
    def is_stream(self) -> bool:
        """Whether it is written from beginning to end, as text, and needs no file."""
        return self in (Format.JSONL, Format.CSV)


@dataclass(frozen=True, slots=True)
class Written:
    """How many records were written, and how many of their texts are not whole, which only xlsx cuts."""

    records: int
    cut: int = 0


def write_records(
    file: IO[bytes], format: Format, records: Iterable[Record], metadata: Mapping[str, str]
) -> Written:
    """Write records one after the other, and keep none of them.

    Parameters
    ----------
    file
        Open for writing, with a name: some formats need room beside it.
    metadata
        What the file says of itself, where the format has a place for it.

    Raises
    ------
    OSError
    """
    match format:
        case Format.JSONL:
            return Written(write_jsonl(file, records))
        case Format.CSV:
            return Written(write_csv(file, records))
        # Their libraries take long to import, and nobody else needs them.
        case Format.PARQUET:
            from doceval_pipeline.reports.exports.parquet import write_parquet

            return Written(write_parquet(file, records, metadata))
        case Format.XLSX:
            from doceval_pipeline.reports.exports.xlsx import write_xlsx

            return Written(*write_xlsx(file, records, metadata))
