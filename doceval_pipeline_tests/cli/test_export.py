"""The command export in a process of its own."""

import json
from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline_tests.cli.running import doceval, read_json, write_evaluation
from doceval_pipeline_tests.cli.test_bars import in_a_terminal
from doceval_pipeline_tests.reports.exports.reading import READERS

pytestmark = pytest.mark.usefixtures("databases")


@pytest.fixture
def batch(tmp_path: Path) -> str:
    """A batch of which some is answered."""
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    doceval("stage", "q4")
    doceval("simulate-processor", "--until-empty", "--latency", "0", "--failure-rate", "0.3")
    return "q4"


def test_the_ending_of_the_name_says_the_format_and_the_summary_what_was_written(
    batch: str, tmp_path: Path
) -> None:
    for format in READERS:
        path = tmp_path / f"results.{format.upper()}"
        ended = doceval("export", batch, "--output", str(path))
        assert ended.returncode == 0, ended.stderr
        said, where = ended.stdout.splitlines()
        assert "12 records in " in said
        assert where == str(path)
        assert ended.stderr == ""
        assert len(READERS[format](path)) == 12
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_summary_is_data_for_other_programs(batch: str, tmp_path: Path) -> None:
    doceval("reprocess", batch, "--all")
    said = read_json(
        "export", batch, "--format", "csv", "--output", str(tmp_path / "every"), "--attempts", "all"
    )
    assert said | {"read_at": None, "batch": None} == {
        "batch": None,
        "format": "csv",
        "path": str(tmp_path / "every"),
        "version": 1,
        "attempts": "all",
        "read_at": None,
        "records": 24,
        "cut_texts": 0,
        "size": (tmp_path / "every").stat().st_size,
    }
    assert {record.attempt for record in READERS["csv"](tmp_path / "every")} == {1, 2}


def test_html_is_the_page_of_the_report(batch: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    ended = doceval("export", batch, "--output", str(path))
    assert ended.returncode == 0, ended.stderr
    report = Path(read_json("report", batch)["path"])
    assert path.read_bytes() == report.read_bytes()
    assert "its report in " in ended.stdout
    said = read_json("export", batch, "--output", str(path))
    assert json.loads(json.dumps(said)).keys() == {"batch", "format", "path", "size"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["q4", "--output", "results.txt"],
            "the name of results.txt ends in no format: give --format jsonl|csv|",
        ),
        (
            ["q4", "--output", "page.html", "--attempts", "all"],
            "leave out --attempts all, or choose another format",
        ),
        (["nobody", "--output", "results.csv"], "there is no batch 'nobody'"),
        (["q4", "--output", "results.csv"], "has nothing to export, it is SAVED: stage it first"),
        (["q4", "--output", "/dev/null", "--format", "csv"], "/dev/null is there and is no file"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    if "/dev/null" in arguments:
        doceval("stage", "q4")
    ended = doceval("export", *arguments)
    assert ended.returncode == 1
    assert line in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_text_that_a_workbook_cuts_is_told(batch: str, tmp_path: Path, databases: Databases) -> None:
    doceval("reprocess", batch, "--all")
    with databases.knowledge.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE llm_responses SET status = 'S', response_text = repeat('x', 40000) "
            "WHERE id = (SELECT max(id) FROM llm_responses)"
        )
    ended = doceval("export", batch, "--output", str(tmp_path / "results.xlsx"))
    assert (ended.returncode, ended.stderr) == (0, "1 texts were cut to what a cell of a workbook holds\n")


def test_an_export_draws_a_bar(batch: str, tmp_path: Path) -> None:
    shown, printed, code = in_a_terminal("export", batch, "--output", str(tmp_path / "results.csv"))
    assert (code, "exporting" in shown, "12 of 12" in shown) == (0, True, True)
    assert "12 records" in printed
