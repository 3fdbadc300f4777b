"""The reference processor, against a model on loopback: what it makes of an answer, and of none."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.conformance.cases import Case, text_of
from doceval_pipeline.conformance.endpoint import KEY, Model, served
from doceval_pipeline.conformance.scratch import KEY_VARIABLE, Scratch, scratch_database
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
PATH = PROJECT / "examples" / "processor" / "processor.py"
RESULT = "SELECT status, overall_score, error_message, input_tokens, output_tokens, response_json, deliveries"


@pytest.fixture(scope="module")
def processor() -> Any:
    spec = importlib.util.spec_from_file_location("reference_processor", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scratch(settings: Settings) -> Iterator[Scratch]:
    with scratch_database(EmbeddedServer(settings.home)) as made:
        yield made


class Busy(Model):
    def reply(self, request: Any, key: str) -> tuple[int, Any]:
        super().reply(request, key)
        return 429, {"error": {"message": "come back later"}}


class Telling(Model):
    def reply(self, request: Any, key: str) -> tuple[int, Any]:
        return 401, {"error": {"message": f"no such key: {key}"}}


def run(scratch: Scratch, model: Model, cases: Sequence[Case], *options: str, key: str | None = KEY) -> Any:
    """Queue cases, let the processor work until the queue is empty, and give the rows."""
    with scratch.engine.begin() as connection:
        connection.execute(text("TRUNCATE llm_responses, batch_configs"))
    with served(model) as url:
        model.prepare(cases)
        scratch.queue_cases(1, cases, url)
        environment = {"PATH": "", "KNOWLEDGE_DOCUMENTS_URL": scratch.url}
        ended = subprocess.run(
            [sys.executable, str(PATH), "--until-empty", "--workers", "1", *options],
            env=environment | ({KEY_VARIABLE: key} if key else {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert KEY not in ended.stdout + ended.stderr
    with scratch.engine.connect() as connection:
        return connection.execute(text(f"{RESULT} FROM llm_responses ORDER BY prompt_id")).all()


def test_score_tokens_and_cost_are_those_of_the_answer(scratch: Scratch) -> None:
    cases = [Case(1, "one", text_of(200, "one"), score=0), Case(2, "two", text_of(200, "two"), score=87.5)]
    rows = run(scratch, Model(), cases, "--prices", '{"conformance-1": [2.5, 10]}')
    assert [row[:5] for row in rows] == [("S", 0, None, 120, 12), ("S", 87.5, None, 120, 12)]
    assert json.loads(rows[0].response_json) == {
        "model": "conformance-1",
        "cost": pytest.approx(120 * 2.5e-6 + 12 * 10e-6),
    }


def test_without_prices_the_cost_is_not_made_up(scratch: Scratch) -> None:
    (row,) = run(scratch, Model(), [Case(1, "one", text_of(200, "one"))])
    assert json.loads(row.response_json)["cost"] is None


def test_a_model_that_stays_busy_is_asked_again_and_again_and_then_given_up(scratch: Scratch) -> None:
    model = Busy()
    (row,) = run(scratch, model, [Case(1, "one", text_of(200, "one"))], "--retries", "1")
    assert (row.status, row.deliveries) == ("F", 5)
    assert row.error_message.startswith(
        "given up after 5 deliveries, the last of which failed: Error code: 429"
    )
    assert len(model.calls[1]) == 10, "each delivery asks twice"


def test_a_missing_key_is_a_failure_that_names_the_variable(scratch: Scratch) -> None:
    (row,) = run(scratch, Model(), [Case(1, "one", text_of(200, "one"))], key=None)
    assert (row.status, row.error_message) == ("F", f"KeyError: '{KEY_VARIABLE}'")


def test_a_key_that_the_provider_quotes_is_not_handed_on(scratch: Scratch) -> None:
    (row,) = run(scratch, Telling(), [Case(1, "one", text_of(200, "one"))], key="of-no-known-form")
    assert "no such key: (key not shown)" in row.error_message


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("Score: 0", 0),
        ("Score: 87.5", 87.5),
        ("Score: 100\r\n", 100),
        ("The score is 40.\nscore: 55", 55),
        ("Score: 40\nOn reflection:\nScore: 55", 55),
        ("**Score:** 70", 70),
        ("**Score: 71**", 71),
        ("Score: 40\nScore: 8/10", None),
        ("The score of 100 would mean perfect, but this file is blank", None),
        ('{"score": 12, "reason": "x"}', None),
        ("Score of 33 out of 100", None),
        ("Score 33", None),
        ("Score = 33", None),
        ("Score: 33 out of 100", None),
        ("Score: 33%", None),
        ("Score: 33.", None),
        ("Score: 33*", None),
        ("*Score: 33", None),
        ("Score:* 33", None),
        ("Score: 8,5", None),
        ("Score: 1e2", None),
        ("Score: ٣٣", None),
        ("Score: nan", None),
        ("Score: 90-95", None),
        ("My final Score: 90", None),
        ("Score:\n90", None),
        ("Score: 101", None),
        ("Score: 100.01", None),
        ("Score: -1", None),
        ("Score: " + "9" * 400, None),
        ("No number at all", None),
        ("Underscore: 5", None),
        ("The scores differ by 5", None),
        ("", None),
    ],
)
def test_only_the_number_that_fills_the_last_score_line_counts(
    processor: Any, said: str, score: float | None
) -> None:
    assert processor.score(said) == score


def test_text_is_sent_as_text_and_everything_else_as_what_it_is(processor: Any) -> None:
    def part(content: bytes, content_type: str) -> Any:
        document = {"bytes": content, "content": "AAA=", "content_type": content_type, "sha256": "f"}
        return processor.part({"file_name": "a.pdf"}, document)

    assert part("Ä".encode(), "application/json") == {"type": "text", "text": "Ä"}
    assert part(b"\x89PNG\xff", "image/png")["image_url"]["url"] == "data:image/png;base64,AAA="
    assert part(b"%PDF\xff", "application/pdf")["file"]["filename"] == "a.pdf"


def test_it_imports_nothing_of_the_pipeline() -> None:
    assert "doceval" not in PATH.read_text().replace("doceval_pipeline's", "")
