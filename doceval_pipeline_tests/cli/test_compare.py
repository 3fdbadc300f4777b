"""`doceval compare` as a process: its verdict, tables, JSON, page and exit codes."""

from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline_tests.cli.running import doceval, read_json
from doceval_pipeline_tests.conftest import Sample, sample_batch

pytestmark = pytest.mark.usefixtures("databases")
PLACE = "(SELECT count(*) FROM docs d WHERE d.id < r.document_id)"


@pytest.fixture
def batch(databases: Databases, tmp_path: Path) -> Sample:
    """A batch whose second model scores higher than its first, and fails on the last document."""
    made = sample_batch(databases, tmp_path, documents=12)
    made.stage()
    made.knowledge(
        f"""
        UPDATE llm_responses r
        SET status = CASE WHEN {PLACE} = 11 THEN 'F' ELSE 'S' END,
            overall_score = CASE WHEN {PLACE} < 11 THEN
                45 + CASE WHEN connection_details ->> 'name' = 'model-1' THEN {PLACE} ELSE 0 END END
        WHERE batch_id = :id
        """
    )
    return made


def test_two_models_of_a_batch_are_compared(batch: Sample, tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    ended = doceval("compare", "sample", "--connections", "model-0", "model-1", "--html", str(page))
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(
        "model-1 scores 5.0 points higher than model-0 over 11 documents, each with its "
    )
    assert "10 of them rose and 0 fell. 2 of 24 pairs of results are left out" in lines[0]
    assert "documents that crossed 50: 6 upwards, 0 downwards" in lines[1]
    assert lines[2] == f"first is model-0 ({batch.key}), second is model-1 ({batch.key})"
    assert "p corrected for 2 comparisons" in ended.stdout
    assert "not compared, of the shared documents" in ended.stdout
    assert lines[-1] == str(page)
    assert lines[0] in page.read_text().replace("&lt;", "<")


def test_a_page_on_standard_output_is_the_only_output(batch: Sample, tmp_path: Path) -> None:
    compared = ("compare", "sample", "--connections", "model-0", "model-1", "--html")
    assert doceval(*compared, str(tmp_path / "page.html")).returncode == 0
    ended = doceval(*compared, "-")
    assert ended.returncode == 0
    assert ended.stdout == (tmp_path / "page.html").read_text()
    assert ended.stderr.startswith("model-1 scores 5.0 points higher than model-0")
    assert "- and --json" in doceval(*compared, "-", "--json").stderr


def test_the_json_matches_the_verdict(batch: Sample) -> None:
    found = read_json("compare", "sample", "--connections", "model-0", "model-1", "--threshold", "46")
    assert found["told_apart"] is True
    assert found["verdict"].startswith("model-1 scores 5.0 points higher than model-0 over 11 documents")
    assert (found["version"], found["documents"], found["pairs"], found["left_out"]) == (1, 12, 22, 2)
    overall = found["overall"]
    assert (overall["difference"]["n"], overall["rose"], overall["threshold"], overall["flipped_up"]) == (
        11,
        10,
        46,
        10,
    )
    assert found["columns"][0]["first_cells"] == {
        "scored": 11,
        "without_score": 0,
        "failed": 1,
        "open": 0,
        "absent": 0,
        "same_results": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("sample",), 2, "pass two batches, or one batch with either --connections or --prompts"),
        (("a", "b", "c"), 2, "pass two batches"),
        (("sample", "sample", "--prompts", "x", "y"), 2, "pass two batches"),
        (("sample", "sample"), 1, "cannot be compared with itself"),
        (("sample", "nowhere"), 1, "batch 'nowhere' does not exist"),
        (
            ("sample", "--prompts", "prompt-0", "x\x1b[31m"),
            1,
            "has no prompt 'x\\x1b[31m': choose one of prompt-0, prompt-1",
        ),
    ],
)
def test_an_impossible_comparison_is_one_line_and_an_exit_code(
    batch: Sample, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = doceval("compare", *arguments)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert code == 2 or len(ended.stderr.splitlines()) == 1


def test_names_cannot_control_the_terminal(batch: Sample) -> None:
    batch.doc_eval("UPDATE documents SET filepath = filepath || chr(27) || '[31m' || chr(10) || '[bold]x[/]'")
    ended = doceval("compare", "sample", "--connections", "model-0", "model-1")
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    assert "\\x1b[31m\\n[bold]x[/]" in ended.stdout
