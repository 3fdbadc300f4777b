"""The receiver of completions is told of each result at least once, whatever it does, and of no secret."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches import webhook
from doceval_pipeline.batches.completion import look, recount_batches
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.reporting import write_report
from doceval_pipeline.batches.status import batch_progress
from doceval_pipeline.batches.webhook import Told, signature, tell
from doceval_pipeline_tests.batches.receiver import Answer, Receiver, break_off, flood, status
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
SECRET = "whsec_" + "c2VzYW1lIG9wZW4gc2VzYW1lIG9wZW4gc2VzYW1l"
DOCUMENTATION = (Path(__file__).resolve().parents[2] / "docs" / "webhook.md").read_text()
TELL = (
    "from doceval_pipeline.batches.databases import open_databases\n"
    "from doceval_pipeline.batches.webhook import tell\n"
    "from doceval_pipeline.settings import Settings\n"
    "tell(open_databases(Settings.from_environment()))"
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


@dataclass
class Telling:
    """An installation with a receiver."""

    databases: Databases
    receiver: Receiver

    def tell(self) -> Told:
        return tell(self.databases)

    def tell_when_due(self) -> Told:
        """As after the pause."""
        self.change("next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
        return self.tell()

    def change(self, assignment: str) -> None:
        with self.databases.doc_eval.begin() as connection:
            connection.execute(text(f"UPDATE webhook_deliveries SET {assignment}"))


@pytest.fixture
def telling(databases: Databases, receiver: Receiver) -> Telling:
    settings = replace(
        databases.settings,
        webhook_url=receiver.url,
        webhook_secret=SECRET,
        ui_url="https://dagster.example.com",
    )
    return Telling(replace(databases, settings=settings), receiver)


def finished(batch: Sample, reported: bool = True) -> Sample:
    """With one failed cell and scores of 50, and with a report."""
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET overall_score = 50, response_text = 'SESAME', "
        "status = CASE WHEN id = (SELECT min(id) FROM llm_responses) THEN 'F' ELSE 'S' END"
    )
    look(batch.databases)
    if reported:
        write_report(batch.databases, batch.id)
    return batch


def documented_check() -> Callable[[str, dict[str, str], bytes], bool]:
    """What docs/webhook.md gives to receivers."""
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENTATION, re.DOTALL)
    names: dict[str, Any] = {}
    exec(source, names)
    check: Callable[[str, dict[str, str], bytes], bool] = names["is_genuine"]
    return check


def test_the_signature_is_the_one_of_the_specification() -> None:
    # The example that the specification's own libraries are tested with.
    assert (
        signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_a_completed_batch_is_told_once_signed_and_with_what_is_documented(
    batch_of: BatchOf, telling: Telling
) -> None:
    batch = finished(batch_of(documents=2))
    digest = batch.doc_eval("SELECT result_digest FROM batches WHERE id = :id")[0][0]
    (delivered,) = telling.tell().delivered
    assert delivered.startswith(f"{batch.key}-{digest}-")
    assert telling.tell() == Told([], {})
    (message,) = telling.receiver.messages
    assert (message.id, message.path) == (delivered, "/hook?token=SESAME")
    is_genuine = documented_check()
    assert is_genuine(SECRET, message.headers, message.body)
    assert not is_genuine(SECRET, message.headers, message.body + b" ")
    assert not is_genuine(SECRET.replace("c2Vz", "c2V0"), message.headers, message.body)
    told = json.loads(message.body)
    data = told["data"]
    assert data["cells"] == {"expected": 8, "succeeded": 7, "failed": 1, "simulated": 0, "scored": 7}
    assert (data["verdict"], data["mean_score"]) == ("Complete with failures: 1 of 8 cells failed", 50.0)
    assert (telling.databases.settings.reports / data["report"]).is_file()
    assert data["url"] == f"https://dagster.example.com/assets/completion_report?partition={batch.key}"
    (example,) = re.findall(r"```json\n(.*?)```", DOCUMENTATION, re.DOTALL)
    assert shape(json.loads(example)) == shape(told)


def shape(value: Any) -> Any:
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else type(value)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (status(500), "the receiver answered 500"),
        (status(400), "the receiver answered 400"),
        (status(301, location="/elsewhere"), "the receiver answered 301"),
        (status(307, location="http://[bad"), "the receiver answered 307"),
        (break_off, "the connection to the receiver broke"),
    ],
)
def test_what_the_receiver_did_not_take_comes_again_the_same_when_it_is_due(
    batch_of: BatchOf, telling: Telling, answer: Answer, why: str
) -> None:
    batch = finished(batch_of(documents=1))
    telling.receiver.answers = [answer]
    failed = telling.tell()
    assert failed.delivered == []
    assert [reason.startswith(why) for reason in failed.failed.values()] == [True], failed
    assert telling.tell() == Told([], {}), "not before it is due"
    (progress,) = batch_progress(batch.databases, batch.name)
    assert progress.webhook is not None
    assert progress.webhook.sentence.startswith(f"the webhook is still to be sent after 1 attempt: {why}")
    assert telling.tell_when_due().delivered == list(failed.failed)
    first, second = telling.receiver.messages
    assert (first.path, first.id, first.body) == (second.path, second.id, second.body)
    assert batch_progress(batch.databases, batch.name)[0].webhook is None


def test_nobody_waits_long_for_a_receiver_that_is_silent_slow_or_talks_without_end(
    batch_of: BatchOf, telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "SECONDS_TO_ANSWER", 0.5)
    for name in "abcd":
        finished(batch_of(documents=1, connections=1, prompts=2, name=name))
    telling.receiver.answers = [telling.receiver.hang, telling.receiver.drip, flood]
    before = time.monotonic()
    told = telling.tell()
    # One pause for all of them.
    assert time.monotonic() - before < 5
    assert list(told.failed.values()) == ["no answer within 0.5 s"] * 2
    assert len(told.delivered) == 2
    assert len(telling.tell_when_due().delivered) == 2


def test_a_receiver_that_is_not_there_is_tried_again_less_and_less_often(
    batch_of: BatchOf, telling: Telling
) -> None:
    batch = finished(batch_of(documents=1))
    # Of no receiver any more.
    telling.receiver.__exit__()
    pauses = []
    for _ in range(13):
        (why,) = telling.tell_when_due().failed.values()
        assert why.startswith("the receiver cannot be reached")
        statement = "SELECT round(extract(epoch FROM next_attempt_at - now())) FROM webhook_deliveries"
        pauses.append(float(batch.doc_eval(statement)[0][0]))
    assert pauses == pytest.approx([min(30 * 2**n, 21_600) for n in range(13)], abs=5)


def test_after_three_days_it_is_given_up_and_said_so(batch_of: BatchOf, telling: Telling) -> None:
    batch = finished(batch_of(documents=1))
    telling.receiver.answers = [status(500)] * 3
    telling.tell()
    for hours in (71, 73):
        batch.doc_eval(
            "UPDATE batches SET completed_at = now() - make_interval(hours => :hours)", hours=hours
        )
        telling.change("created_at = (SELECT completed_at FROM batches WHERE id = batch_id) + interval '1 s'")
        assert len(telling.tell_when_due().failed) == 1
    assert telling.tell_when_due() == Told([], {})
    (progress,) = batch_progress(batch.databases, batch.name)
    assert progress.webhook is not None
    assert progress.webhook.sentence == "the webhook was given up after 3 attempts: the receiver answered 500"
    assert progress.as_json()["webhook"]["given_up_at"] is not None


def test_a_sender_that_is_killed_before_it_records_the_answer_sends_the_same_again(
    batch_of: BatchOf, telling: Telling
) -> None:
    finished(batch_of(documents=1))
    killed: list[subprocess.Popen[bytes]] = []

    def take_it_and_kill(request: BaseHTTPRequestHandler) -> None:
        os.kill(killed[0].pid, signal.SIGKILL)

    telling.receiver.answers = [take_it_and_kill]
    environment = {"DOCEVAL_WEBHOOK_URL": telling.receiver.url, "DOCEVAL_WEBHOOK_SECRET": SECRET}
    killed.append(subprocess.Popen([sys.executable, "-c", TELL], env=os.environ | environment))
    assert killed[0].wait(60) == -signal.SIGKILL
    assert telling.tell() == Told([], {}), "not before it is due"
    assert len(telling.tell_when_due().delivered) == 1
    first, second = telling.receiver.messages
    assert (first.id, first.body) == (second.id, second.body)


def test_another_result_is_told_once_it_has_a_report(batch_of: BatchOf, telling: Telling) -> None:
    batch = finished(batch_of(documents=1), reported=False)
    assert telling.tell() == Told([], {})
    write_report(batch.databases, batch.id)
    telling.tell()
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE status = 'F'")
    look(batch.databases)
    assert telling.tell() == Told([], {})
    write_report(batch.databases, batch.id)
    telling.tell()
    first, second = telling.receiver.messages
    assert first.id != second.id
    assert [json.loads(m.body)["data"]["cells"]["failed"] for m in (first, second)] == [1, 0]


def test_a_batch_that_comes_back_to_an_earlier_result_is_told_of_again(
    batch_of: BatchOf, telling: Telling
) -> None:
    batch = finished(batch_of(documents=1))
    telling.tell()
    # A file that goes and comes back sets its rows aside and back, which leaves them as they were.
    for score in (70, 50):
        batch.plant("UPDATE llm_responses SET overall_score = :score", score=score)
        recount_batches(batch.databases, [batch.id])
        look(batch.databases)
        write_report(batch.databases, batch.id)
        telling.tell()
        assert telling.tell() == Told([], {})
    bodies = [json.loads(message.body)["data"] for message in telling.receiver.messages]
    assert [body["mean_score"] for body in bodies] == [50, 70, 50]
    assert bodies[0]["result_digest"] == bodies[2]["result_digest"]
    assert len({message.id for message in telling.receiver.messages}) == 3


def test_what_was_written_since_the_report_is_not_told_under_its_name(
    batch_of: BatchOf, telling: Telling
) -> None:
    batch = finished(batch_of(documents=1))
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE status = 'F'")
    assert telling.tell() == Told([], {})


def test_nobody_is_told_of_what_was_completed_long_ago(batch_of: BatchOf, telling: Telling) -> None:
    batch = finished(batch_of(documents=1))
    batch.doc_eval("UPDATE batches SET completed_at = now() - interval '73 hours'")
    assert telling.tell() == Told([], {})


def test_a_look_reads_no_more_cells_than_it_can_and_always_some(
    batch_of: BatchOf, telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "CELLS_AT_ONCE", 5)
    for name in "abc":
        finished(batch_of(documents=1, connections=1, prompts=2, name=name))
    assert [len(telling.tell().delivered) for _ in range(3)] == [2, 1, 0]
    batch_of(documents=3, name="larger than that")
    finished(batch_of(documents=3, name="large"))
    assert len(telling.tell().delivered) == 1


def test_no_secret_token_or_response_is_kept_told_or_logged(
    batch_of: BatchOf, telling: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    batch = finished(batch_of(documents=1))
    telling.receiver.answers = [status(500), break_off, telling.receiver.hang]
    with caplog.at_level(logging.DEBUG), pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhook, "SECONDS_TO_ANSWER", 0.2)
        said = [str(telling.tell_when_due()) for _ in range(4)]
    said += [record.getMessage() for record in caplog.records]
    said += [str(row) for row in batch.doc_eval("SELECT w::text FROM webhook_deliveries w")]
    said += [repr(telling.databases.settings), str(batch_progress(batch.databases)[0].as_json())]
    said += [message.body.decode() for message in telling.receiver.messages]
    hidden = (SECRET, SECRET.removeprefix("whsec_"), "SESAME")
    assert len(telling.receiver.messages) == 4
    assert [text for text in said if any(word in text for word in hidden)] == []
