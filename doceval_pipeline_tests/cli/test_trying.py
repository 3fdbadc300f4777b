"""`doceval try`: a sample of a batch, its results, and the estimate for the whole."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.trying import make_trial
from doceval_pipeline.cli import cli, trying
from doceval_pipeline.doc_eval.batches import find_batch
from doceval_pipeline.errors import BatchStateError, StagingError, UnknownBatch
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, read_json, until, write_evaluation

# Public interfaces.
KEYS = {
    "batch",
    "name",
    "partition",
    "status",
    "sample_of",
    "seed",
    "documents",
    "documents_requested",
    "files_found",
    "results",
    "whole",
    "notes",
}
RESULT_KEYS = {
    "connection",
    "prompt",
    "evaluations",
    "succeeded",
    "failed",
    "open",
    "reused",
    "simulated",
    "scored",
    "mean_score",
    "seconds_p50",
    "input_tokens",
    "output_tokens",
    "cost_per_document",
    "currency",
}
WHOLE_KEYS = {"batch", "name", "documents", "counts_files", "evaluations", "estimates"}


@pytest.fixture
def simulation() -> Iterator[None]:
    """A processor that runs beside the command."""
    process = subprocess.Popen(
        [DOCEVAL, "simulate-processor", "--latency", "0", "--failure-rate", "0.2"], stdout=subprocess.DEVNULL
    )
    yield
    process.send_signal(signal.SIGINT)
    process.wait(30)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["try", *words])


def sample_of(databases: Databases, name: str) -> str:
    batch = find_batch(databases.doc_eval, name)
    return str(make_trial(databases, batch, 2, 5, lambda *_: None).batch_id)


@pytest.mark.usefixtures("simulation")
def test_a_sample_is_evaluated_and_shown_beside_the_whole_without_a_daemon(
    tmp_path: Path, databases: Databases
) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4", documents=9)))
    shown = doceval("try", "q4", "--documents", "3", "--seed", "5")
    assert shown.returncode == 0, shown.stderr
    lines = " ".join(shown.stdout.split())
    source = find_batch(databases.doc_eval, "q4")
    assert re.search(r"q4 try \d{4}-\d\d-\d\d: a random sample of batch-\d{6}, seed 5", lines)
    assert "3 documents of 9 files of q4, seed 5" in lines
    assert f"all of {source.key} q4: 9 usable files, 36 evaluations" in lines
    assert "18 evaluations to run, estimated from 6 finished ones" in lines
    assert f"next: doceval stage {source.id}" in lines
    assert "with 3 documents no difference between models will show" in shown.stderr
    assert "no model was called" in shown.stderr
    assert source.status == "SAVED"
    assert source.config_sha256 is None
    (found,) = [batch for batch in read_json("status") if batch["batch"] != source.id]
    assert (found["status"], found["cells"]["expected"]) == ("COMPLETED", 12)
    again = read_json("try", str(found["batch"]), "--show")
    assert set(again) == KEYS
    assert set(again["results"][0]) == RESULT_KEYS
    assert set(again["whole"]) == WHOLE_KEYS
    assert (again["seed"], again["documents"], again["sample_of"]["batch"]) == (5, 3, source.id)
    assert sum(result["evaluations"] for result in again["results"]) == 12
    assert sum(r["succeeded"] + r["failed"] for r in again["results"]) == 12


@pytest.mark.parametrize("wrong", [["--documents", "0"], ["--documents", "-3"], ["--seed", "-1"]])
def test_an_impossible_number_is_a_usage_error(wrong: list[str]) -> None:
    assert run("q4", *wrong).exit_code == 2


@pytest.mark.usefixtures("databases")
def test_what_cannot_be_tried_is_one_line_and_makes_nothing(tmp_path: Path) -> None:
    assert isinstance(run("q4").exception, UnknownBatch)
    (tmp_path / "documents").mkdir()
    doceval("apply", str(write_evaluation(tmp_path, "q4", documents=0)))
    refused = doceval("try", "q4")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert "has no usable document" in refused.stderr
    assert len(read_json("status")) == 1
    both = run("q4", "--show", "--seed", "1")
    assert (both.exit_code, "leave out --documents and --seed" in both.output) == (2, True)
    shown = run("q4", "--show")
    assert isinstance(shown.exception, BatchStateError)
    assert "is not a sample" in str(shown.exception)


@pytest.mark.slow
def test_ctrl_c_leaves_the_sample_and_says_how_to_continue(tmp_path: Path, databases: Databases) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4", documents=9)))
    process = subprocess.Popen(
        [DOCEVAL, "try", "q4", "--documents", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    (found,) = until(lambda: [b for b in read_json("status") if b["status"] == "STAGED"])
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"doceval status {found['batch']} --watch" in said
    assert f"doceval try {found['batch']} --show" in said
    doceval("simulate-processor", "--until-empty", "--latency", "0")
    assert read_json("try", str(found["batch"]), "--show")["status"] == "COMPLETED"


@pytest.mark.slow
def test_a_batch_without_a_processor_is_warned_of(
    tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    number = sample_of(databases, "q4")
    doceval("stage", number)
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            with databases.knowledge.begin() as connection:
                connection.execute(text("UPDATE llm_responses SET status = 'S', overall_score = 50"))

    monkeypatch.setattr(trying, "SECONDS_TO_TAKE_ROWS", 0)
    monkeypatch.setattr(trying.time, "sleep", sleep)
    shown = run(number, "--show", "--json")
    assert shown.exit_code == 0
    assert shown.stderr.count("no processor has taken a row") == 1
    assert json.loads(shown.stdout)["results"][0]["mean_score"] == 50


def test_a_sample_that_is_held_or_cannot_be_staged_is_an_error(tmp_path: Path, databases: Databases) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    with databases.doc_eval.begin() as connection:
        connection.execute(text("UPDATE batches SET max_documents = 1"))
    held = doceval("try", "q4", "--documents", "2")
    assert held.returncode == 1
    assert "held: 2 documents exceed max_documents (1)" in held.stderr
    number = sample_of(databases, "q4")
    for file in (tmp_path / "documents").iterdir():
        file.unlink()
    doceval("stage", number)
    refused = run(number, "--show")
    assert isinstance(refused.exception, StagingError)
    assert "could not be staged" in str(refused.exception)


def test_a_sample_whose_evaluations_all_fail_shows_that_and_fails(
    tmp_path: Path, databases: Databases
) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    number = sample_of(databases, "q4")
    doceval("stage", number)
    with databases.knowledge.begin() as connection:
        connection.execute(text("UPDATE llm_responses SET status = 'F', error_message = 'no key'"))
    shown = run(number, "--show", "--json")
    assert isinstance(shown.exception, BatchStateError)
    data: dict[str, Any] = json.loads(shown.stdout)
    assert (data["status"], data["results"][0]["failed"], data["results"][0]["mean_score"]) == (
        "FAILED",
        2,
        None,
    )


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path: Path, databases: Databases) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4 [/red]")))
    number = sample_of(databases, "q4 [/red]")
    with databases.doc_eval.begin() as connection:
        connection.execute(text("UPDATE connections SET name = name || ' [/bold]'"))
    doceval("stage", number)
    with databases.knowledge.begin() as connection:
        connection.execute(text("UPDATE llm_responses SET status = 'S', overall_score = 50"))
    shown = run(number, "--show")
    assert shown.exit_code == 0, shown.exception
    assert "files of q4 [/red], seed 5" in shown.output
    assert "c1 [/bold]: 6 evaluations to run" in shown.output
