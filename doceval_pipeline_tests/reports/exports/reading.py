"""Reads exports of each format back into records."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from openpyxl import load_workbook
from openpyxl.utils.escape import unescape

from doceval_pipeline.domain.export_record import COLUMNS, ExportRecord
from doceval_pipeline.reports.exports.value_types import TYPES


def read_jsonl(path: Path) -> list[ExportRecord]:
    # Not by splitlines(), but as careless readers do: a line must end nowhere else.
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert all(tuple(line) == COLUMNS for line in found)
    return [_record(line.values()) for line in found]


def read_csv(path: Path) -> list[ExportRecord]:
    content = path.read_bytes().decode("utf-8")
    names, *rows = fields_of_csv(content)
    assert tuple(text for _, text in names) == COLUMNS
    with_library = list(csv.reader(io.StringIO(content, newline="")))
    assert [[text for _, text in row] for row in (names, *rows)] == with_library
    return [
        _record(_csv_value(kind, *field) for kind, field in zip(TYPES.values(), row, strict=True))
        for row in rows
    ]


def fields_of_csv(content: str) -> Iterator[list[tuple[bool, str]]]:
    """The rows of a CSV file as RFC 4180 has it: for each field, whether it is quoted, and its text."""
    row: list[tuple[bool, str]] = []
    at = 0
    while at < len(content):
        quoted = content[at] == '"'
        if quoted:
            end = content.index('"', at + 1)
            while content[end + 1] == '"':
                end = content.index('"', end + 2)
            row.append((True, content[at + 1 : end].replace('""', '"')))
            at = end + 1
        else:
            end = min(content.index(separator, at) for separator in ",\r" if separator in content[at:])
            assert not set(content[at:end]) & {'"', "\n"}
            row.append((False, content[at:end]))
            at = end
        if content[at] == ",":
            at += 1
        else:
            assert content[at : at + 2] == "\r\n"
            yield row
            row = []
            at += 2


def _csv_value(kind: type, quoted: bool, text: str) -> Any:
    assert quoted == (kind is str and (quoted or text != ""))
    if quoted:
        return text.removeprefix("'")
    if not text:
        return None
    return {"true": True, "false": False}[text] if kind is bool else text if kind is datetime else kind(text)


def read_parquet(path: Path) -> list[ExportRecord]:
    table = pq.read_table(path)
    assert tuple(table.column_names) == COLUMNS
    return [ExportRecord(**row) for row in table.to_pylist()]


def read_xlsx(path: Path) -> list[ExportRecord]:
    """The records of all sheets of results; numbers have 16 digits, texts at most the length of a cell."""
    workbook = load_workbook(path, read_only=True)
    found = []
    assert workbook.sheetnames[:3] == ["summary", "documents", "results"]
    for name in workbook.sheetnames[2:]:
        titles, *rows = workbook[name].iter_rows()
        assert [cell.value for cell in titles] == [*COLUMNS, "cut"]
        for row in rows:
            assert {cell.data_type for cell in row} <= {"s", "n", "b"}, "no formula, no error, no date"
            values = [cell.value for cell in row[: len(COLUMNS)]]
            values += [None] * (len(COLUMNS) - len(values))
            found.append(
                _record(
                    unescape(value) if kind is str and value is not None else value
                    for kind, value in zip(TYPES.values(), values, strict=True)
                )
            )
    workbook.close()
    return found


READERS: dict[str, Callable[[Path], list[ExportRecord]]] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "xlsx": read_xlsx,
}


def _record(values: Any) -> ExportRecord:
    return ExportRecord(
        **{
            name: datetime.fromisoformat(value) if kind is datetime and value is not None else value
            for (name, kind), value in zip(TYPES.items(), values, strict=True)
        }
    )
