"""Records in each format read back equal for any content, and no spreadsheet acts on them."""

import csv
import errno
import os
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook
from openpyxl.utils import get_column_letter

from doceval_pipeline.domain.export_record import COLUMNS, ExportRecord
from doceval_pipeline.reports.exports import parquet, xlsx
from doceval_pipeline.reports.exports.writing import Format, RecordCounts, write_records
from doceval_pipeline_tests.reports.exports.reading import READERS, read_parquet, read_xlsx
from doceval_pipeline_tests.reports.exports.records import HOSTILE, any_record, any_text, plain_record

MIB = 1024 * 1024
ALL = pytest.mark.parametrize("format", Format)
METADATA = {"doceval.export.version": "1"}


def written(folder: Path, format: Format, records: list[ExportRecord]) -> tuple[Path, RecordCounts]:
    path = folder / f"export.{format}"
    with path.open("wb") as file:
        return path, write_records(file, format, records, METADATA)


def as_read(format: Format, record: ExportRecord) -> ExportRecord:
    """A record as a format reads back: only xlsx rounds, to 16 digits."""
    if format is not Format.XLSX:
        return record
    return ExportRecord(*(float(f"{value:.16G}") if isinstance(value, float) else value for value in record))


@ALL
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(records=st.lists(any_record, max_size=3))
def test_records_read_back_equal(tmp_path: Path, format: Format, records: list[ExportRecord]) -> None:
    path, told = written(tmp_path, format, records)
    assert READERS[format](path) == [as_read(format, record) for record in records]
    assert told == RecordCounts(len(records))


@ALL
def test_every_hostile_text_reads_back_equal_in_every_place(tmp_path: Path, format: Format) -> None:
    records = [
        plain_record(file=text, response_text=text, error_message=text, task_id=text, doc_type=text)
        for text in (*HOSTILE, *("'" + text for text in HOSTILE), "x" * 32_767)
    ]
    path, told = written(tmp_path, format, records)
    assert READERS[format](path) == records
    assert told == RecordCounts(len(records))


@given(any_text)
def test_no_spreadsheet_treats_a_text_of_a_csv_as_a_formula(text: str) -> None:
    from doceval_pipeline.reports.exports.text import _csv_field

    (parsed,) = next(csv.reader([_csv_field(text)]))
    first = re.sub(r"^[\s\"\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*", "", parsed)
    assert not first.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    assert not parsed.startswith(("\t", "\r", "\n"))
    assert parsed.removeprefix("'") == text


def test_numbers_of_a_csv_stay_numbers(tmp_path: Path) -> None:
    path, _ = written(tmp_path, Format.CSV, [plain_record(seconds=-5.25, input_tokens=-7, score=None)])
    (record,) = csv.DictReader(path.read_text().splitlines())
    assert (record["seconds"], record["input_tokens"], record["score"]) == ("-5.25", "-7", "")


def test_a_workbook_lists_which_texts_were_cut(tmp_path: Path) -> None:
    long, wide = "x" * 40_000, "\U0001f600" * 16_384
    records = [plain_record(), plain_record(response_text=long, error_message=wide), plain_record()]
    path, told = written(tmp_path, Format.XLSX, records)
    assert told == RecordCounts(3, cut=2)
    cut = read_xlsx(path)[1]
    assert (cut.response_text, cut.error_message) == (long[:32_767], wide[:16_383])
    sheet = load_workbook(path)["results"]
    assert [sheet.cell(row, len(COLUMNS) + 1).value for row in (1, 2, 3, 4)] == [
        "cut",
        None,
        "response_text, error_message",
        None,
    ]


@ALL
def test_no_other_format_cuts_a_text(tmp_path: Path, format: Format) -> None:
    record = plain_record(response_text="x" * 40_000, response_json="\U0001f600" * 40_000)
    path, told = written(tmp_path, format, [record])
    assert (READERS[format](path) == [record]) == (format is not Format.XLSX)
    assert bool(told.cut) == (format is Format.XLSX)


@pytest.mark.parametrize(("count", "sheets"), [(0, [0]), (2, [2]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
def test_records_beyond_a_sheet_are_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, sheets: list[int]
) -> None:
    monkeypatch.setattr(xlsx, "RECORDS_IN_A_SHEET", 3)
    records = [plain_record(attempt=number) for number in range(count)]
    path, told = written(tmp_path, Format.XLSX, records)
    workbook = load_workbook(path)
    assert workbook.sheetnames[2:] == ["results", "results 2", "results 3"][: len(sheets)]
    of_results = workbook.worksheets[2:]
    assert [sheet.max_row - 1 for sheet in of_results] == sheets
    last = get_column_letter(len(COLUMNS) + 1)
    assert [sheet.auto_filter.ref for sheet in of_results] == [f"A1:{last}{max(1, n) + 1}" for n in sheets]
    assert {sheet.freeze_panes for sheet in of_results} == {"A2"}
    assert read_xlsx(path) == records
    assert told == RecordCounts(count)


def test_a_workbook_has_neither_a_formula_nor_a_link(tmp_path: Path) -> None:
    path, _ = written(tmp_path, Format.XLSX, [plain_record(response_text=text) for text in HOSTILE])
    cells = [cell for row in load_workbook(path)["results"].iter_rows() for cell in row]
    assert {cell.data_type for cell in cells} == {"s", "n", "b"}
    assert [cell for cell in cells if cell.hyperlink] == []


@pytest.mark.parametrize(
    ("most_records", "most_characters", "groups"), [(3, 10**9, [3, 3, 1]), (99, 20, [2, 2, 2, 1])]
)
def test_row_groups_are_bounded_by_records_and_by_characters(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most_records: int,
    most_characters: int,
    groups: list[int],
) -> None:
    monkeypatch.setattr(parquet, "MOST_RECORDS", most_records)
    monkeypatch.setattr(parquet, "MOST_CHARACTERS", most_characters)
    records = [plain_record(response_text="12345", attempt=number) for number in range(7)]
    path, _ = written(tmp_path, Format.PARQUET, records)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == groups
    assert read_parquet(path) == records


def test_a_parquet_file_holds_its_version(tmp_path: Path) -> None:
    path, _ = written(tmp_path, Format.PARQUET, [])
    assert pq.read_schema(path).metadata == {b"doceval.export.version": b"1"}
    assert str(pq.read_schema(path).field("queued_at").type) == "timestamp[us, tz=UTC]"


def test_the_same_records_give_the_same_text(tmp_path: Path) -> None:
    for format in (Format.JSONL, Format.CSV, Format.PARQUET):
        path, _ = written(tmp_path, format, [plain_record()])
        first = path.read_bytes()
        written(tmp_path, format, [plain_record()])
        assert path.read_bytes() == first


class FullDisk:
    """A file on a disk that has room for some bytes."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@ALL
@pytest.mark.parametrize("room", [0, 2_000, 6_000])
def test_a_full_disk_raises_the_operating_system_error(tmp_path: Path, format: Format, room: int) -> None:
    records = [plain_record(response_text=os.urandom(400).hex()) for _ in range(100)]
    with (tmp_path / "export").open("wb") as file, pytest.raises(OSError, match="No space left") as told:
        write_records(FullDisk(file, room), format, records, METADATA)  # type: ignore[arg-type]
    assert told.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@ALL
def test_records_are_not_kept(tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MOST_CHARACTERS", 2 * MIB)

    def many() -> Iterator[ExportRecord]:
        for number in range(2_000):
            yield plain_record(attempt=number, response_text=f"{number}" + "x" * 20_000)

    tracemalloc.start()
    with (tmp_path / "export").open("wb") as file:
        assert write_records(file, format, many(), METADATA).records == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MIB, "of 40 MB"
