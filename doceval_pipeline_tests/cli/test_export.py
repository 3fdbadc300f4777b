"""The command export in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, read_json
from doceval_pipeline_tests.cli.test_bars import in_a_terminal
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.reports.exports.reading import READERS


@pytest.fixture
def batch(batch_of: Callable[..., Sample]) -> Sample:
    """A batch of 12 evaluations and one more attempt; one response is longer than a workbook cell."""
    batch = batch_of(documents=3)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S', response_text = repeat('x', 40000) "
        "WHERE prompt_id = (SELECT min(prompt_id) FROM llm_responses)"
    )
    batch.plant(
        "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, attempt, status, "
        "connection_details) SELECT batch_id, document_id, prompt_id, connection_id, 2, 'S', '{}' "
        "FROM llm_responses WHERE status = 'S' LIMIT 1; "
        "UPDATE llm_responses r SET superseded_at = now() FROM llm_responses n WHERE n.attempt = 2 "
        "AND r.attempt = 1 AND (r.document_id, r.prompt_id, r.connection_id) = "
        "(n.document_id, n.prompt_id, n.connection_id)"
    )
    return batch


@pytest.mark.parametrize("format", READERS)
def test_the_extension_selects_the_format_and_the_summary_describes_the_file(
    batch: Sample, tmp_path: Path, format: str
) -> None:
    path = tmp_path / f"results.{format.upper()}"
    ended = doceval("export", batch.name, "--output", str(path))
    assert ended.returncode == 0, ended.stderr
    said, where, *more = ended.stdout.splitlines()
    assert said.startswith(f"{batch.key} 12 records in ")
    assert where == str(path)
    assert [line[:32] for line in more] == (["for Excel, use --format xlsx: Ex"] if format == "csv" else [])
    assert ended.stderr == ("5 texts were cut to the limit of a workbook cell\n" if format == "xlsx" else "")
    assert len(READERS[format](path)) == 12
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_summary_is_data_for_other_programs(batch: Sample, tmp_path: Path) -> None:
    path = tmp_path / "every"
    said = read_json("export", str(batch.id), "--format", "csv", "--output", str(path), "--attempts", "all")
    assert said.pop("read_at").startswith("20")
    assert said == {
        "batch": batch.id,
        "format": "csv",
        "path": str(path),
        "version": 1,
        "attempts": "all",
        "records": 13,
        "cut_texts": 0,
        "size": path.stat().st_size,
    }
    assert sorted(record.attempt for record in READERS["csv"](path)) == [1] * 12 + [2]


def test_a_target_is_the_file_that_the_kernel_means(batch: Sample, tmp_path: Path) -> None:
    (tmp_path / "deep" / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to("deep/inside")
    for target in (f"{tmp_path}/link/../x.csv", "~/deep/x.csv", "~/link/../x.csv"):
        said = read_json("export", batch.name, f"--output={target}", HOME=str(tmp_path))
        assert said["path"] == str(tmp_path.resolve() / "deep" / "x.csv")
        assert (tmp_path / "deep" / "x.csv").stat().st_size == said["size"]
        (tmp_path / "deep" / "x.csv").unlink()


def test_html_is_the_page_of_the_report(batch: Sample, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    ended = doceval("export", batch.name, "--output", str(path))
    assert ended.returncode == 0, ended.stderr
    assert f"{batch.key} report in " in ended.stdout
    assert path.read_bytes() == write_report(batch.databases, batch.id).path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["results.txt"],
            "the extension of results.txt is not a format: add --format jsonl|csv|parquet|xlsx|html",
        ),
        (["page.html", "--attempts", "all"], "remove --attempts all, or choose another format"),
        (["/dev/null", "--format", "csv"], "/dev/null exists and is not a regular file"),
        (
            ["nowhere/results.csv"],
            "nowhere/results.csv cannot be written (No such file or directory): free disk space",
        ),
        (["nowhere/../results.csv"], "nowhere/../results.csv cannot be written (No such file or directory)"),
        (["~nobody-of-this-name/x.csv"], "no home folder is known for '~nobody-of-this-name'"),
        (["results.csv/"], "'results.csv/' is the path of a folder: give the path of a file"),
    ],
)
def test_an_error_is_one_line(batch: Sample, arguments: list[str], line: str) -> None:
    ended = doceval("export", batch.name, "--output", *arguments)
    assert ended.returncode == 1
    assert line in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("format", ["csv", "html"])
def test_a_dash_is_standard_output_and_the_summary_goes_to_standard_error(
    batch: Sample, tmp_path: Path, format: str
) -> None:
    path = tmp_path / f"results.{format}"
    assert doceval("export", batch.name, "--output", str(path)).returncode == 0
    command = [DOCEVAL, "export", batch.name, "--output", "-", "--format", format]
    ended = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
    assert ended.stdout == path.read_bytes()
    assert ended.stderr.startswith(batch.key.encode())
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [path.name]


def test_a_file_may_still_be_called_a_dash(batch: Sample, tmp_path: Path) -> None:
    command = [DOCEVAL, "export", batch.name, "--output", "./-", "--format", "csv"]
    subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
    assert len(READERS["csv"](tmp_path / "-")) == 12


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "standard output has no file name: add --format jsonl|csv|html"),
        (["--format", "xlsx"], "xlsx cannot be written to standard output: choose a file"),
        (["--format", "csv", "--json"], "- and --json both write to standard output: name a file, or omit"),
    ],
)
def test_a_format_that_needs_a_file_is_rejected_for_standard_output_in_one_line(
    batch: Sample, arguments: list[str], line: str
) -> None:
    ended = doceval("export", batch.name, "--output", "-", *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(line)
    assert len(ended.stderr.splitlines()) == 1


def test_results_are_not_written_to_a_terminal(batch: Sample) -> None:
    ended = subprocess.run(
        ["script", "-qec", f"{DOCEVAL} export {batch.name} --output - --format csv", "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 1
    assert "standard output is a terminal" in ended.stdout
    assert "partition_key" not in ended.stdout


def test_a_reader_that_stops_ends_the_export_without_a_traceback(batch: Sample) -> None:
    command = f"{DOCEVAL} export {batch.name} --output - --format jsonl | head -c 10"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert ended.stdout == '{"partitio'
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_standard_output_without_room_is_one_line(batch: Sample) -> None:
    command = [DOCEVAL, "export", batch.name, "--output", "-", "--format", "csv"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "standard output cannot be written (No space left on device): free disk space, or name a file"
    ]


def test_an_export_draws_a_bar(batch: Sample, tmp_path: Path) -> None:
    shown, printed, code = in_a_terminal("export", batch.name, "--output", str(tmp_path / "results.csv"))
    assert (code, "exporting" in shown, "12 of 12" in shown) == (0, True, True)
    assert "12 records" in printed


def test_libraries_of_formats_are_imported_only_for_them() -> None:
    asked = (
        "import doceval_pipeline.cli, doceval_pipeline.definitions, sys; "
        "dict(doceval_pipeline.cli.cli.commands); print(*sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert {"pyarrow", "xlsxwriter"} & set(ended.stdout.split()) == set()
