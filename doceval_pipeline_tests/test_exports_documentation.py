"""docs/exports.md held against the code: its columns, and its readers."""

import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.cli import cli
from doceval_pipeline.domain.export_record import ExportRecord
from doceval_pipeline.reports.exports.parquet import MOST_RECORDS
from doceval_pipeline.reports.exports.value_types import TYPES, VERSION
from doceval_pipeline.reports.exports.writing import Format, write_records
from doceval_pipeline.reports.exports.xlsx import RECORDS_IN_A_SHEET
from doceval_pipeline_tests.reports.exports.reading import read_csv
from doceval_pipeline_tests.reports.exports.records import HOSTILE, plain_record

EXPORTS = (Path(__file__).parents[1] / "docs" / "exports.md").read_text()
WORDS = {str: "text", int: "integer", float: "number", bool: "boolean", datetime: "time"}
SQL_TYPES = {str: "text", int: "bigint", float: "float8", bool: "boolean", datetime: "timestamptz"}
RECORDS = [plain_record(file=text, response_text=None, error_message=text) for text in HOSTILE]


def write_csv(path: Path) -> None:
    with path.open("wb") as file:
        write_records(file, Format.CSV, RECORDS, {})


def test_the_columns_are_those_of_a_record() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| .+ \|$", EXPORTS, re.MULTILINE)
    empty = {name: NoneType in get_args(hint) for name, hint in get_type_hints(ExportRecord).items()}
    assert rows == [(name, WORDS[kind], "may be" if empty[name] else "") for name, kind in TYPES.items()]
    assert f"## The columns, version {VERSION}\n" in EXPORTS


def test_formats_and_limits_are_those_of_the_code() -> None:
    formats = re.findall(r"^\*\*(\w+)\*\*:", EXPORTS, re.MULTILINE)
    assert formats == list(Format)
    prose = " ".join(EXPORTS.split())
    assert f"{RECORDS_IN_A_SHEET:,} records" in prose
    assert f"at most {MOST_RECORDS:,} records" in prose
    (option,) = [option for option in cli.commands["export"].params if option.name == "format_"]
    assert set(option.type.to_info_dict()["choices"]) == {*formats, "html"}


def test_the_reader_of_csv_gives_back_every_text(tmp_path: Path) -> None:
    write_csv(tmp_path / "results.csv")
    (reader,) = [block for block in re.findall(r"```python\n(.*?)```", EXPORTS, re.DOTALL) if "csv" in block]
    reader += "        print(ascii(record['file']))\n"
    ended = subprocess.run(
        [sys.executable, "-c", reader], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert ended.stdout.splitlines() == [ascii(record.file) for record in RECORDS]


def test_postgresql_reads_the_csv_and_tells_an_empty_text_from_none(
    databases: Databases, tmp_path: Path
) -> None:
    write_csv(tmp_path / "results.csv")
    columns = ", ".join(f"{name} {SQL_TYPES[kind]}" for name, kind in TYPES.items())
    texts = [name for name, kind in TYPES.items() if kind is str]
    unmarked = ", ".join(f"{name} = regexp_replace({name}, '^''', '')" for name in texts)
    connection = databases.knowledge.raw_connection()
    with connection.cursor() as cursor, (tmp_path / "results.csv").open("rb") as file:
        cursor.execute(f"CREATE TEMPORARY TABLE results ({columns})")
        cursor.copy_expert("COPY results FROM STDIN (FORMAT csv, HEADER, ENCODING 'UTF8')", file)
        cursor.execute(f"UPDATE results SET {unmarked}")
        cursor.execute("SELECT * FROM results")
        found = [ExportRecord(*row) for row in cursor.fetchall()]
    connection.rollback()
    connection.close()
    assert found == RECORDS == read_csv(tmp_path / "results.csv")
