"""The reference processor, against a model on loopback: what it makes of an answer, and of none."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from sqlalchemy import text

from doceval_pipeline.conformance.cases import ConformanceCase, text_of
from doceval_pipeline.conformance.fake_openai import KEY, Model, served
from doceval_pipeline.conformance.scratch import KEY_VARIABLE, Scratch, scratch_database
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
PATH = PROJECT / "examples" / "processor" / "processor.py"
RESULT = """
    SELECT status, overall_score, error_message, input_tokens, output_tokens, response_json, deliveries,
           uncounted, extract(epoch FROM not_before - now()) AS wait
"""


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


class Answering(Model):
    """Answers each request with the same status, and says in the error which key it got."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status

    def reply(self, request: Any, key: str) -> tuple[int, Any]:
        super().reply(request, key)
        return self.status, {"error": {"message": f"no answer\nfor {key}"}}


@dataclass
class Ended:
    """How the processor ended, and the rows as it left them."""

    code: int
    errors: str
    rows: Any


def run(
    scratch: Scratch, model: Model, cases: Sequence[ConformanceCase], *options: str, key: str | None = KEY
) -> Ended:
    """Queue cases and let the processor work until the queue is empty."""
    with scratch.engine.begin() as connection:
        connection.execute(text("TRUNCATE llm_responses, batch_configs"))
    with served(model) as url:
        model.prepare(cases)
        scratch.queue_cases(1, cases, url)
        environment = {"PATH": "", "KNOWLEDGE_DOCUMENTS_URL": scratch.url}
        ended = subprocess.run(
            [sys.executable, str(PATH), "--until-empty", "--workers", "1", *options],
            env=environment | ({} if key is None else {KEY_VARIABLE: key}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert KEY not in ended.stdout + ended.stderr
    with scratch.engine.connect() as connection:
        rows = connection.execute(text(f"{RESULT} FROM llm_responses ORDER BY prompt_id")).all()
    return Ended(ended.returncode, ended.stderr, rows)


def some(number: int) -> list[ConformanceCase]:
    return [ConformanceCase(n, f"case {n}", text_of(200, f"case {n}")) for n in range(1, number + 1)]


def test_score_tokens_and_cost_are_those_of_the_answer(scratch: Scratch) -> None:
    cases = [
        ConformanceCase(1, "one", text_of(200, "one"), score=0),
        ConformanceCase(2, "two", text_of(200, "two"), score=87.5),
    ]
    rows = run(scratch, Model(), cases, "--prices", '{"conformance-1": [2.5, 10]}').rows
    assert [row[:5] for row in rows] == [("S", 0, None, 120, 12), ("S", 87.5, None, 120, 12)]
    assert json.loads(rows[0].response_json) == {
        "model": "conformance-1",
        "cost": pytest.approx(120 * 2.5e-6 + 12 * 10e-6),
    }


def test_without_prices_the_cost_is_not_made_up(scratch: Scratch) -> None:
    (row,) = run(scratch, Model(), some(1)).rows
    assert json.loads(row.response_json)["cost"] is None


@pytest.mark.parametrize("status", [429, 503])
def test_rows_of_a_busy_model_wait_as_long_as_it_asks_and_nothing_is_counted(
    scratch: Scratch, status: int
) -> None:
    model = Answering(status)
    ended = run(scratch, model, some(1), "--retries", "0")
    (row,) = ended.rows
    assert (row.status, row.deliveries, row.uncounted, ended.code) == ("QUEUED", 1, 1, 0)
    assert row.wait <= (1 if status == 429 else 60), "the endpoint says Retry-After with 429 alone"
    assert len(model.calls[1]) == 1
    assert "case 1.txt: row 1 is QUEUED and waits until" in re.sub("row [0-9]+", "row 1", ended.errors)


def test_a_busy_model_is_not_asked_about_other_rows_until_its_time(scratch: Scratch) -> None:
    model = Answering(503)
    ended = run(scratch, model, some(20), "--retries", "0")
    assert {(row.status, row.deliveries, row.uncounted) for row in ended.rows} == {("QUEUED", 1, 1)}
    assert all(row.wait <= 60 for row in ended.rows)
    assert sum(len(calls) for calls in model.calls.values()) == 1


def test_a_broken_model_is_counted_because_the_document_may_have_broken_it(scratch: Scratch) -> None:
    (row,) = run(scratch, Answering(500), some(1), "--retries", "0").rows
    assert (row.status, row.deliveries, row.uncounted) == ("QUEUED", 1, 0)


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_stops_it_with_one_line_and_the_rows_go_back(scratch: Scratch, key: str | None) -> None:
    ended = run(scratch, Model(), some(30), "--workers", "4", key=key)
    assert ended.code == 1
    assert ended.errors.splitlines() == [
        f"{KEY_VARIABLE} is not set: the rows were given back; set a valid key and start it again"
    ]
    assert {row.status for row in ended.rows} == {"QUEUED"}
    assert all(row.deliveries == row.uncounted for row in ended.rows)
    assert sum(row.deliveries for row in ended.rows) <= 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_it_too_and_is_not_handed_on(scratch: Scratch, status: int) -> None:
    ended = run(scratch, Answering(status), some(3), key="of-no-known-form")
    assert ended.code == 1
    (line,) = ended.errors.splitlines()
    assert line.startswith(f"the key in {KEY_VARIABLE} was rejected (Error code: {status}")
    assert "of-no-known-form" not in line
    assert [row.status for row in ended.rows] == ["QUEUED"] * 3


def test_the_reason_of_a_failure_is_logged_in_one_line_with_the_row_and_its_file(scratch: Scratch) -> None:
    ended = run(scratch, Answering(400), some(1))
    (row,) = ended.rows
    assert row.status == "F"
    (line,) = ended.errors.splitlines()
    assert re.search(r"case 1\.txt: row [0-9]+ is F: BadRequestError: .*no answer", line)
    assert "HTTP Request" not in line


def test_a_key_that_the_provider_quotes_is_not_handed_on(scratch: Scratch) -> None:
    (row,) = run(scratch, Answering(400), some(1), key="of-no-known-form").rows
    assert "(key not shown)" in row.error_message
    assert "of-no-known-form" not in row.error_message


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("0.2", 1),
        ("1e9", 86_400),
        ("-5", 1),
        ("nan", 1),
        ("inf", 86_400),
        ("soon", 60),
        ("", 60),
        (None, 60),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
        ("12:99", 60),
    ],
)
def test_retry_after_is_a_number_or_a_date_within_bounds(
    processor: Any, said: str | None, seconds: float
) -> None:
    response = httpx2.Response(
        429, headers={} if said is None else {"retry-after": said}, request=httpx2.Request("POST", "http://m")
    )
    assert processor.wait(openai.RateLimitError("busy", response=response, body=None)) == seconds


@pytest.mark.parametrize(
    ("base_url", "port", "url"),
    [
        ("http://m.example/v1", 8000, "http://m.example:8000/v1"),
        ("http://m.example:1234/v1", 8000, "http://m.example:1234/v1"),
        ("http://m.example/v1", None, "http://m.example/v1"),
        ("http://[::1]/v1?a=b", 8000, "http://[::1]:8000/v1?a=b"),
        ("https://m.example", 443, "https://m.example:443"),
        (None, 8000, None),
    ],
)
def test_the_port_goes_behind_the_host_unless_there_is_one(
    processor: Any, base_url: str | None, port: int | None, url: str | None
) -> None:
    assert processor.endpoint({"base_url": base_url, "port_no": port}) == url


@pytest.mark.parametrize(
    ("content", "content_type", "found"),
    [
        ("Ä €".encode(), "text/plain", "Ä €"),
        ("Ä €".encode("utf-8-sig"), "text/plain", "Ä €"),
        ("Ä €".encode("utf-16"), "text/plain", "Ä €"),
        (b"\xfe\xff" + "Ä €".encode("utf-16-be"), "text/csv", "Ä €"),
        ("Ä €".encode("cp1252"), "text/plain", "Ä €"),
        (b"\x81\xe9", "text/plain", "\x81é"),
        (b"\xff\xfe\x00\xd8", "text/plain", "ÿþ\x00Ø"),
        (b"%PDF\xff", "application/pdf", None),
        (b"\xff\xfe\x00", "application/octet-stream", None),
    ],
)
def test_text_in_another_encoding_is_text(
    processor: Any, content: bytes, content_type: str, found: str | None
) -> None:
    assert processor.text_of({"bytes": content, "content_type": content_type}) == found


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
