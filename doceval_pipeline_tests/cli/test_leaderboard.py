"""`doceval leaderboard` as a process: its boards, JSON, page and exit codes."""

import json
from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline_tests.cli.running import doceval, read_json
from doceval_pipeline_tests.conftest import Sample, sample_batch

pytestmark = pytest.mark.usefixtures("databases")


@pytest.fixture
def batch(databases: Databases, tmp_path: Path) -> Sample:
    """Real and simulated results: the second model scores higher under the first prompt."""
    made = sample_batch(databases, tmp_path, documents=12)
    made.stage()
    made.knowledge(
        """
        UPDATE llm_responses
        SET status = 'S', overall_score = 45 + document_id % 7
                + CASE WHEN connection_details ->> 'name' = 'model-1' THEN 5 + document_id % 3 ELSE 0 END,
            task_id = CASE WHEN prompt_id = (SELECT max(prompt_id) FROM llm_responses WHERE batch_id = :id)
                           THEN 'simulated-1' END
        WHERE batch_id = :id
        """
    )
    poll(made.databases)
    write_report(made.databases, made.id)
    return made


def test_the_boards_are_printed_real_ones_first(batch: Sample) -> None:
    ended = doceval("leaderboard")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    headings = [line for line in lines if line.startswith("prompt-")]
    assert [heading.endswith("SIMULATED: no LLM was called") for heading in headings] == [False, True]
    assert "model-1 scores 6 points higher than model-0 on the 12 documents both scored" in lines[1]
    assert "connection" in lines[2] or "model" in lines[2]
    assert lines[3].startswith("model-1")
    assert "a model that scores higher may only be more generous" in ended.stdout
    assert "1 batch; 0 left out" in ended.stdout


def test_one_prompt_can_be_chosen_and_an_unknown_one_is_refused_in_one_line(batch: Sample) -> None:
    ended = doceval("leaderboard", "--prompt", "prompt-1")
    assert [line for line in ended.stdout.splitlines() if line.startswith("prompt-0")] == []
    refused = doceval("leaderboard", "--prompt", "prompt-9\x1b[31m")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("no completed batch has a prompt 'prompt-9")
    assert refused.stderr.count("\n") == 1
    assert "\x1b" not in refused.stderr


def test_the_json_has_all_boards_and_the_page_is_written_if_it_is_opened(batch: Sample) -> None:
    found = read_json("leaderboard")
    assert [board["simulated"] for board in found["boards"]] == [False, True]
    first, second = found["boards"][0]["rows"]
    assert (first["connection"], first["rank"], second["rank"]) == ("model-1", 1, 2)
    assert first["difference"]["against"] == "model-0"
    assert first["difference"]["n"] == 12
    assert first["costs"] == []
    assert "path" not in found
    # `true` is a browser that starts.
    ended = doceval("leaderboard", "--json", "--open", BROWSER="true")
    assert ended.returncode == 0, ended.stderr
    page = Path(json.loads(ended.stdout)["path"])
    assert "<title>Leaderboard" in page.read_text()


def test_without_a_completed_batch_it_says_what_to_do(databases: Databases) -> None:
    ended = doceval("leaderboard")
    assert ended.returncode == 0
    assert ended.stdout.startswith("no batch is completed yet: run doceval demo")
    assert read_json("leaderboard")["boards"] == []
    assert doceval("leaderboard", "--prompt", "clarity").returncode == 1


def test_the_boards_of_a_batch_are_those_of_its_report_with_what_they_decide_first(batch: Sample) -> None:
    ended = doceval("leaderboard", "sample")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(f"{batch.key} sample: Complete")
    assert [line.startswith("- For prompt-") for line in lines[:4]] == [False, True, True, False]
    assert "model-1 scores 6 points higher than model-0 on the 12 documents both scored" in lines[1]
    assert lines[2].endswith("[SIMULATED]")
    assert ended.stdout.count("simulated") == 2, "the rows of the second board"
    found = read_json("leaderboard", str(batch.id), "--prompt", "prompt-0")
    (board,) = found["boards"]
    assert board["sentence"] == lines[1].removeprefix("- ")
    assert (found["batch"], board["choice"]) == (batch.id, ["model-1"])
    assert [row["connection"] for row in board["rows"]] == ["model-1", "model-0"]
    assert board["rows"][0]["difference"]["n"] == 12
    assert board["rows"][0]["cost"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nothing",), 1, "batch 'nothing' does not exist"),
        (("sample", "--prompt", "prompt-7"), 1, "has no prompt 'prompt-7'"),
        (("sample", "--open"), 2, "doceval open sample"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    batch: Sample, arguments: tuple[str, ...], code: int, message: str
) -> None:
    refused = doceval("leaderboard", *arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
