"""Parquet: each column has a type, and row groups have a bounded size."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from doceval_pipeline.domain.export_record import ExportRecord
from doceval_pipeline.reports.exports.value_types import TYPES

# A row group ends at the first of these two limits.
MOST_RECORDS = 10_000
MOST_CHARACTERS = 32 * 1024 * 1024

_ARROW_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
}
_FIELDS = [pa.field(name, _ARROW_TYPES[kind]) for name, kind in TYPES.items()]


def write_parquet(file: IO[bytes], records: Iterable[ExportRecord], metadata: Mapping[str, str]) -> int:
    """Write records, and `metadata` as key-value metadata of the file; return the number of records."""
    schema = pa.schema(_FIELDS, metadata=dict(metadata))
    count = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for portion in _portions(records):
            columns = zip(*portion, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _FIELDS, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(portion)
    return count


def _portions(records: Iterable[ExportRecord]) -> Iterator[list[ExportRecord]]:
    portion: list[ExportRecord] = []
    characters = 0
    for record in records:
        portion.append(record)
        texts = (record.response_text, record.response_json, record.error_message)
        characters += sum(len(text) for text in texts if text)
        if len(portion) == MOST_RECORDS or characters >= MOST_CHARACTERS:
            yield portion
            portion, characters = [], 0
    if portion:
        yield portion
