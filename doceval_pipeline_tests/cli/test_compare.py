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
                45 + CASE WHEN connection_details ->> 'name' = 'model-1' THEN {PLACE} ELSE 0 END END,
            input_tokens = 1000, output_tokens = 0, time_taken_seconds = 2.5
        WHERE batch_id = :id
        """
    )
    return made


FINDING = (
    "For {}, model-1 scores 5 points higher than model-0 on the 11 documents both scored (95 % interval 2.8 "
    "to 7.2, p = 0.004); what they cost is unknown; model-0 failed on 1 document; model-1 failed on 1 "
    "document."
)


def test_two_models_of_a_batch_are_compared_by_prompt(batch: Sample, tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    ended = doceval("compare", "sample", "--connections", "model-0", "model-1", "--html", str(page))
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[:2] == [FINDING.format("prompt-0"), FINDING.format("prompt-1")]
    assert "price and time" in ended.stdout
    assert f"first is model-0 ({batch.key}), second is model-1 ({batch.key})" in lines
    assert "p corrected for 2 comparisons" in ended.stdout
    assert "prompt-0: at or above 50 by model-0 only: 0, by model-1 only: 6" in lines
    assert "not compared, of the shared documents" in ended.stdout
    assert "largest differences: prompt-1" in ended.stdout
    for verb in ("rose", "fell", "crossed", "change", "overall"):
        assert verb not in ended.stdout
    assert lines[-1] == str(page)
    assert lines[0] in page.read_text().replace("&lt;", "<")


def test_a_page_on_standard_output_is_the_only_output(batch: Sample, tmp_path: Path) -> None:
    compared = ("compare", "sample", "--connections", "model-0", "model-1", "--html")
    assert doceval(*compared, str(tmp_path / "page.html")).returncode == 0
    ended = doceval(*compared, "-")
    assert ended.returncode == 0
    assert ended.stdout == (tmp_path / "page.html").read_text()
    assert ended.stderr.startswith("For prompt-0, model-1 scores 5 points higher than model-0")
    assert "- and --json" in doceval(*compared, "-", "--json").stderr


def test_the_json_matches_the_verdict(batch: Sample) -> None:
    found = read_json("compare", "sample", "--connections", "model-0", "model-1", "--threshold", "46")
    assert (found["told_apart"], found["dimension"]) == (True, "connection")
    assert found["verdict"] == " ".join(column["sentence"] for column in found["columns"])
    assert [column["sentence"] for column in found["columns"]] == [
        FINDING.format("prompt-0"),
        FINDING.format("prompt-1"),
    ]
    assert (found["version"], found["documents"], found["pairs"], found["left_out"]) == (1, 12, 22, 2)
    overall = found["overall"]
    assert (overall["difference"]["n"], overall["rose"], overall["threshold"], overall["flipped_up"]) == (
        11,
        10,
        46,
        10,
    )
    column = found["columns"][0]
    assert (column["told_apart"], column["movement"]["threshold"], column["movement"]["flipped_up"]) == (
        True,
        46,
        10,
    )
    assert column["first_cells"] == {
        "scored": 11,
        "without_score": 0,
        "failed": 1,
        "open": 0,
        "absent": 0,
        "same_results": 0,
    }
    assert column["usage"]["first"] == {
        "cells": 12,
        "input_tokens": {"value": 12_000, "cells": 12},
        "output_tokens": {"value": 0, "cells": 12},
        "seconds": {"n": 11, "p50": 2.5, "p95": 2.5},
        "cost": None,
        "cost_per_document": None,
        "failed": 1,
        "reused": 0,
    }


def test_prices_and_thresholds_stand_beside_the_scores(batch: Sample) -> None:
    for name, price in (("model-0", 20), ("model-1", 1)):
        batch.doc_eval(
            "UPDATE connections SET prices = "
            f"""'{{"input_per_million": {price}, "output_per_million": 0, "currency": "USD"}}' """
            f"WHERE name = '{name}'"
        )
    batch.doc_eval("UPDATE prompts SET threshold = 46 WHERE name = 'prompt-0'")
    ended = doceval("compare", "sample", "--connections", "model-0", "model-1")
    lines = ended.stdout.splitlines()
    assert "costs about a twentieth as much (1.00 against 20.00 USD per 1,000 documents)" in lines[0]
    assert "prompt-0: at or above 46 by model-0 only: 0, by model-1 only: 10" in lines
    assert "prompt-1: at or above 50 by model-0 only: 0, by model-1 only: 6" in lines
    (row,) = (line for line in lines if line.split()[:2] == ["prompt-0", "model-1"] and "USD" in line)
    assert row.split() == ["prompt-0", "model-1", "0.012", "USD", "1.00", "USD", "2.5", "12,000", "0", "1"]
    found = read_json("compare", "sample", "--connections", "model-0", "model-1")
    assert [column["movement"]["threshold"] for column in found["columns"]] == [46, 50]
    assert found["overall"]["threshold"] == 50
    assert found["columns"][0]["usage"]["second"]["cost_per_document"] == pytest.approx(0.001)


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
