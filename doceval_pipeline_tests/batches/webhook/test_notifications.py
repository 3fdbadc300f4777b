"""The receiver gets each result at least once, whatever it does, and never a secret."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll, recount_batches
from doceval_pipeline.batches.monitoring.status import batch_progress, every_progress
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.webhook import notifications, sending
from doceval_pipeline.batches.webhook.notifications import SendResult, send_pending
from doceval_pipeline.batches.webhook.sending import OutgoingMessage, requested_pause, signature
from doceval_pipeline_tests.batches.webhook.receiver import Answer, Receiver, break_off, flood, status
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
SECRET = "whsec_" + "c2VzYW1lIG9wZW4gc2VzYW1lIG9wZW4gc2VzYW1l"
DOCUMENTATION = (Path(__file__).resolve().parents[3] / "docs" / "webhook.md").read_text()
TELL = (
    "from doceval_pipeline.batches.databases import open_databases\n"
    "from doceval_pipeline.batches.webhook.notifications import send_pending\n"
    "from doceval_pipeline.settings import Settings\n"
    "send_pending(open_databases(Settings.from_environment()))"
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


@dataclass
class Notifier:
    """An installation with a receiver."""

    databases: Databases
    receiver: Receiver

    def send(self) -> SendResult:
        return send_pending(self.databases)

    def send_when_due(self) -> SendResult:
        """As after the pause."""
        self.change("next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
        return self.send()

    def change(self, assignment: str) -> None:
        with self.databases.doc_eval.begin() as connection:
            connection.execute(text(f"UPDATE webhook_deliveries SET {assignment}"))


@pytest.fixture
def notifier(databases: Databases, receiver: Receiver) -> Notifier:
    settings = replace(
        databases.settings,
        webhook_url=receiver.url,
        webhook_secret=SECRET,
        ui_url="https://dagster.example.com",
    )
    return Notifier(replace(databases, settings=settings), receiver)


def finished(batch: Sample, reported: bool = True) -> Sample:
    """With one failed cell and scores of 50, and with a report."""
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET overall_score = 50, response_text = 'SESAME', "
        "status = CASE WHEN id = (SELECT min(id) FROM llm_responses) THEN 'F' ELSE 'S' END"
    )
    poll(batch.databases)
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


def test_a_completed_batch_is_sent_once_signed_and_as_documented(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    batch = finished(batch_of(documents=2))
    digest = batch.doc_eval("SELECT result_digest FROM batches WHERE id = :id")[0][0]
    (delivered,) = notifier.send().delivered
    assert delivered.startswith(f"{batch.key}-{digest}-")
    assert notifier.send() == SendResult([], {})
    (message,) = notifier.receiver.messages
    assert (message.id, message.path) == (delivered, "/hook?token=SESAME")
    is_genuine = documented_check()
    assert is_genuine(SECRET, message.headers, message.body)
    assert not is_genuine(SECRET, message.headers, message.body + b" ")
    assert not is_genuine(SECRET.replace("c2Vz", "c2V0"), message.headers, message.body)
    result = json.loads(message.body)
    data = result["data"]
    assert data["cells"] == {
        "expected": 8,
        "succeeded": 7,
        "failed": 1,
        "simulated": 0,
        "reused": 0,
        "scored": 7,
    }
    assert (data["verdict"], data["mean_score"]) == (
        "Complete with failures: 1 of 8 evaluations failed",
        50.0,
    )
    assert (notifier.databases.settings.reports / data["report"]).is_file()
    assert data["url"] == f"https://dagster.example.com/assets/completion_report?partition={batch.key}"
    assert shape(documented(result["type"])) == shape(result)


def test_a_message_states_each_model_under_each_prompt(batch_of: BatchOf, notifier: Notifier) -> None:
    batch = batch_of(documents=3)
    batch.doc_eval(
        "UPDATE connections SET prices = CAST(:prices AS jsonb) WHERE name = 'model-0'",
        prices='{"input_per_million": 2, "output_per_million": 0, "currency": "EUR"}',
    )
    batch.doc_eval("UPDATE prompts SET threshold = 55 WHERE name = 'prompt-0'")
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET overall_score = 50 + 10 * place, "
        "status = CASE WHEN place = 2 AND prompt_id = (SELECT max(prompt_id) FROM llm_responses) "
        "THEN 'F' ELSE 'S' END, input_tokens = CASE WHEN place < 2 THEN 1000000 END "
        "FROM (SELECT id AS doc, row_number() OVER (ORDER BY id) - 1 AS place FROM docs) AS d "
        "WHERE document_id = doc"
    )
    poll(batch.databases)
    write_report(batch.databases, batch.id)
    notifier.send()
    (message,) = notifier.receiver.messages
    data = json.loads(message.body)["data"]
    assert data["models_total"] == 4
    assert [tuple(model.values()) for model in data["models"]] == [
        ("model-0", "prompt-0", 60.0, 3, 3, 0, 0, 0, 4.0, "EUR", 1, 1),
        ("model-1", "prompt-0", 60.0, 3, 3, 0, 0, 0, None, None, 3, 1),
        ("model-0", "prompt-1", 55.0, 2, 2, 1, 0, 0, 4.0, "EUR", 1, None),
        ("model-1", "prompt-1", 55.0, 2, 2, 1, 0, 0, None, None, 3, None),
    ]
    assert [*data["models"][0]] == [*documented("batch.completed")["data"]["models"][0]]


def test_messages_state_the_models_of_their_own_batch_in_as_many_statements(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    seen: list[str] = []

    def listen(*about: Any) -> None:
        seen.append(about[2])

    counts = []
    for names in ("a", "bcd"):
        for name in names:
            finished(batch_of(documents=1, connections=1, prompts=2, name=name))
        event.listen(Engine, "before_cursor_execute", listen)
        assert len(notifier.send().delivered) == len(names)
        event.remove(Engine, "before_cursor_execute", listen)
        counts.append(len([statement for statement in seen if "webhook_deliveries" not in statement]))
        seen.clear()
    assert counts[0] == counts[1]
    bodies = [json.loads(message.body)["data"] for message in notifier.receiver.messages]
    assert [len(body["models"]) for body in bodies] == [2] * 4


@pytest.mark.parametrize("name", ["m", "\U0001f600" * 200])
def test_a_message_about_many_models_is_small_and_says_how_many_there_are(
    batch_of: BatchOf, notifier: Notifier, name: str
) -> None:
    batch = finished(batch_of(documents=1, connections=15, prompts=15), reported=False)
    batch.doc_eval(
        "UPDATE batches SET batch_name = :name, config_snapshot = jsonb_set(CAST(config_snapshot AS jsonb), "
        "'{connections,0,name}', to_jsonb(CAST(:name AS text)))",
        name=name,
    )
    write_report(batch.databases, batch.id)
    notifier.send()
    (message,) = notifier.receiver.messages
    data = json.loads(message.body)["data"]
    assert len(message.body) < 20 * 1024
    assert 4 < len(data["models"]) < data["models_total"] == 225
    assert data["models"][0]["connection"] == name


def test_connections_that_the_configuration_does_not_have_are_stated_last(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    batch = finished(batch_of(documents=1, connections=2, prompts=1), reported=False)
    batch.plant(
        "UPDATE llm_responses SET connection_id = 4711 "
        "WHERE connection_id = (SELECT min(connection_id) FROM llm_responses)"
    )
    poll(batch.databases)
    write_report(batch.databases, batch.id)
    notifier.send()
    data = json.loads(notifier.receiver.messages[0].body)["data"]
    assert [model["connection"] for model in data["models"]] == ["model-1", "connection 4711"]


def documented(kind: str) -> Any:
    """The example of a message of this type in docs/webhook.md."""
    examples = map(json.loads, re.findall(r"```json\n(.*?)```", DOCUMENTATION, re.DOTALL))
    (example,) = [example for example in examples if example["type"] == kind]
    return example


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
    batch_of: BatchOf, notifier: Notifier, answer: Answer, why: str
) -> None:
    batch = finished(batch_of(documents=1))
    notifier.receiver.answers = [answer]
    failed = notifier.send()
    assert failed.delivered == []
    assert [reason.startswith(why) for reason in failed.failed.values()] == [True], failed
    assert notifier.send() == SendResult([], {}), "not before it is due"
    progress = batch_progress(batch.databases, batch.name)
    assert progress.webhook is not None
    assert progress.webhook.sentence.startswith(
        f"the webhook message is still pending after 1 attempt: {why}"
    )
    assert notifier.send_when_due().delivered == list(failed.failed)
    first, second = notifier.receiver.messages
    assert (first.path, first.id, first.body) == (second.path, second.id, second.body)
    assert batch_progress(batch.databases, batch.name).webhook is None


def test_silent_slow_and_endless_receivers_do_not_block_for_long(
    batch_of: BatchOf, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SECONDS_TO_ANSWER", 0.5)
    for name in "abcd":
        finished(batch_of(documents=1, connections=1, prompts=2, name=name))
    notifier.receiver.answers = [notifier.receiver.hang, notifier.receiver.drip, flood]
    before = time.monotonic()
    result = notifier.send()
    # One pause for all of them.
    assert time.monotonic() - before < 5
    assert list(result.failed.values()) == ["no answer within 0.5 s"] * 2
    assert len(result.delivered) == 2
    assert len(notifier.send_when_due().delivered) == 2


def test_a_receiver_that_is_not_there_is_tried_again_less_and_less_often(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    batch = finished(batch_of(documents=1))
    # Of no receiver any more.
    notifier.receiver.__exit__()
    pauses = []
    for _ in range(13):
        (why,) = notifier.send_when_due().failed.values()
        assert why.startswith("the receiver cannot be reached")
        statement = "SELECT round(extract(epoch FROM next_attempt_at - now())) FROM webhook_deliveries"
        pauses.append(float(batch.doc_eval(statement)[0][0]))
    assert pauses == pytest.approx([min(30 * 2**n, 21_600) for n in range(13)], abs=5)


def test_after_three_days_it_is_given_up_and_reported(batch_of: BatchOf, notifier: Notifier) -> None:
    batch = finished(batch_of(documents=1))
    notifier.receiver.answers = [status(500)] * 3
    notifier.send()
    for hours in (71, 73):
        batch.doc_eval(
            "UPDATE batches SET completed_at = now() - make_interval(hours => :hours)", hours=hours
        )
        notifier.change(
            "created_at = (SELECT completed_at FROM batches WHERE id = batch_id) + interval '1 s'"
        )
        assert len(notifier.send_when_due().failed) == 1
    assert notifier.send_when_due() == SendResult([], {})
    progress = batch_progress(batch.databases, batch.name)
    assert progress.webhook is not None
    assert (
        progress.webhook.sentence
        == "the webhook message was given up after 3 attempts: the receiver answered 500"
    )
    assert progress.as_json()["webhook"]["given_up_at"] is not None


def test_a_sender_that_is_killed_before_it_records_the_answer_sends_the_same_again(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    finished(batch_of(documents=1))
    killed: list[subprocess.Popen[bytes]] = []

    def take_it_and_kill(request: BaseHTTPRequestHandler) -> None:
        os.kill(killed[0].pid, signal.SIGKILL)

    notifier.receiver.answers = [take_it_and_kill]
    environment = {"DOCEVAL_WEBHOOK_URL": notifier.receiver.url, "DOCEVAL_WEBHOOK_SECRET": SECRET}
    killed.append(subprocess.Popen([sys.executable, "-c", TELL], env=os.environ | environment))
    assert killed[0].wait(60) == -signal.SIGKILL
    assert notifier.send() == SendResult([], {}), "not before it is due"
    assert len(notifier.send_when_due().delivered) == 1
    first, second = notifier.receiver.messages
    assert (first.id, first.body) == (second.id, second.body)


def test_another_result_is_sent_once_it_has_a_report(batch_of: BatchOf, notifier: Notifier) -> None:
    batch = finished(batch_of(documents=1), reported=False)
    assert notifier.send() == SendResult([], {})
    write_report(batch.databases, batch.id)
    notifier.send()
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE status = 'F'")
    poll(batch.databases)
    assert notifier.send() == SendResult([], {})
    write_report(batch.databases, batch.id)
    notifier.send()
    first, second = notifier.receiver.messages
    assert first.id != second.id
    assert [json.loads(m.body)["data"]["cells"]["failed"] for m in (first, second)] == [1, 0]


def test_a_batch_that_returns_to_an_earlier_result_is_sent_again(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    batch = finished(batch_of(documents=1))
    notifier.send()
    # A file that goes and comes back sets its rows aside and back, which leaves them as they were.
    for score in (70, 50):
        batch.plant("UPDATE llm_responses SET overall_score = :score", score=score)
        recount_batches(batch.databases, [batch.id])
        poll(batch.databases)
        write_report(batch.databases, batch.id)
        notifier.send()
        assert notifier.send() == SendResult([], {})
    bodies = [json.loads(message.body)["data"] for message in notifier.receiver.messages]
    assert [body["mean_score"] for body in bodies] == [50, 70, 50]
    assert bodies[0]["result_digest"] == bodies[2]["result_digest"]
    assert len({message.id for message in notifier.receiver.messages}) == 3


def test_changes_since_the_report_are_not_sent_under_its_digest(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    batch = finished(batch_of(documents=1))
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE status = 'F'")
    assert notifier.send() == SendResult([], {})


def test_old_completions_are_not_sent(batch_of: BatchOf, notifier: Notifier) -> None:
    batch = finished(batch_of(documents=1))
    batch.doc_eval("UPDATE batches SET completed_at = now() - interval '73 hours'")
    assert notifier.send() == SendResult([], {})


def test_a_look_reads_no_more_cells_than_it_can_and_always_some(
    batch_of: BatchOf, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "CELLS_AT_ONCE", 5)
    for name in "abc":
        finished(batch_of(documents=1, connections=1, prompts=2, name=name))
    assert [len(notifier.send().delivered) for _ in range(3)] == [2, 1, 0]
    batch_of(documents=3, name="larger than that")
    finished(batch_of(documents=3, name="large"))
    assert len(notifier.send().delivered) == 1


def failures(url: str) -> list[str | None]:
    """Why a message to an address was not delivered, or None."""
    receiver = sending.ReceiverSettings(url, SECRET)
    return [answer.failure for answer in sending.send_all(receiver, [OutgoingMessage("one", b"{}")])]


PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def through(notifier: Notifier, **settings: Any) -> Notifier:
    """The same installation with other settings of its webhook."""
    changed = replace(notifier.databases.settings, **settings)
    return Notifier(replace(notifier.databases, settings=changed), notifier.receiver)


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("ALL_PROXY", "socks5://u:SESAME@127.0.0.1:9", "the receiver cannot be reached (Connection refused)"),
        ("ALL_PROXY", "socks4://u:SESAME@127.0.0.1:9", "DOCEVAL_WEBHOOK_URL or one of HTTP_PROXY"),
        ("HTTPS_PROXY", "http://127.0.0.1:9", "the receiver cannot be reached (Connection refused)"),
        ("HTTPS_PROXY", "http://u:SESAME@[::1", "DOCEVAL_WEBHOOK_URL or one of HTTP_PROXY"),
        ("NO_PROXY", "localhost,[::1]", "DOCEVAL_WEBHOOK_URL or one of HTTP_PROXY"),
        ("NO_PROXY", "SESAME:x", "DOCEVAL_WEBHOOK_URL or one of HTTP_PROXY"),
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE or SSL_CERT_DIR cannot be used (No such file"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE or SSL_CERT_DIR cannot be used (it holds no certificate)"),
        ("SSL_CERT_FILE", "/", "SSL_CERT_FILE or SSL_CERT_DIR cannot be used ("),
    ],
)
def test_a_broken_environment_is_reported_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, why: str
) -> None:
    monkeypatch.setenv(variable, value)
    (said,) = failures("https://receiver.invalid/hook?token=SESAME")
    failure = str(said)
    assert failure.startswith(why)
    assert "SESAME" not in failure
    assert "receiver.invalid" not in failure


def test_a_failure_of_the_environment_is_recorded_each_time_and_given_up_after_three_days(
    batch_of: BatchOf, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = finished(batch_of(documents=1))
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    elsewhere = through(notifier, webhook_url="https://receiver.invalid/")
    for attempt in (1, 2):
        (failure,) = elsewhere.send_when_due().failed.values()
        (progress,) = every_progress(batch.databases)
        assert progress.webhook is not None
        assert (progress.webhook.attempts, progress.webhook.failure) == (attempt, failure)
    batch.doc_eval("UPDATE batches SET completed_at = now() - interval '74 hours'")
    notifier.change("created_at = now() - interval '73 hours'")
    elsewhere.send_when_due()
    assert next(every_progress(batch.databases)).as_json()["webhook"]["given_up_at"] is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
@pytest.mark.parametrize("variable", PROXY_VARIABLES)
def test_nothing_for_this_machine_goes_to_a_proxy(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    with Receiver() as proxy:
        monkeypatch.setenv(variable, proxy.url.removesuffix("/hook?token=SESAME"))
        assert failures(receiver.url.replace("127.0.0.1", host)) == [None]
        assert (len(receiver.messages), proxy.messages) == (1, [])


@pytest.mark.parametrize("host", ["127.1", "0.0.0.0", "::1", socket.gethostname()])
def test_names_that_lead_to_this_machine_are_known(host: str) -> None:
    assert asyncio.run(sending._is_this_machine(host))


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "receiver.invalid", "a" * 300, "2001:db8::1", "127.0.0.1.invalid"]
)
def test_other_names_are_those_of_other_machines(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def honest(name: str, *arguments: Any, **options: Any) -> Any:
        # Some networks answer with an address of theirs, or not at all.
        if name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", honest)
    assert not asyncio.run(sending._is_this_machine(host))


def test_what_a_proxy_answers_is_never_taken_for_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver([status(407), status(200)]) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        # It answers as HTTP, without TLS, where the receiver would.
        said = [failures("https://receiver.invalid/hook?token=SESAME")[0] for _ in range(2)]
    assert str(said[0]).startswith("the proxy refused the connection (407): see HTTP_PROXY")
    assert str(said[1]).startswith(("the connection to the receiver broke", "the receiver cannot be reached"))
    assert [message.path for message in proxy.messages] == ["receiver.invalid:443"] * 2


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (httpx.ConnectError("SESAME"), "the receiver cannot be reached (no reason given)"),
        (httpx.ReadError(""), "the connection to the receiver broke (no reason given)"),
        (httpx.InvalidURL("SESAME"), "DOCEVAL_WEBHOOK_URL or one of HTTP_PROXY"),
        (httpx.RemoteProtocolError("SESAME"), "the connection to the receiver broke (the receiver closed it"),
        (httpx.ProxyError("SESAME"), "the proxy refused the connection: see"),
        (UnicodeError("SESAME"), "DOCEVAL_WEBHOOK_URL or one of HTTP_PROXY"),
        (OSError(24, "SESAME"), "the message cannot be sent (Too many open files)"),
        (RuntimeError("SESAME"), "the message cannot be sent for an unknown reason"),
        (httpx.PoolTimeout("SESAME"), "no answer within 15 s"),
    ],
)
def test_every_error_of_the_client_has_a_reason_that_repeats_nothing(error: Exception, why: str) -> None:
    said = sending._why(error)
    assert said.startswith(why)
    assert "SESAME" not in said


def test_reasons_of_the_system_are_reported_without_the_receiver() -> None:
    refused = ssl.SSLCertVerificationError(1, "SESAME")
    refused.verify_message = "Hostname mismatch, certificate is not valid for 'SESAME'."
    wrapped = httpx.ConnectError("SESAME")
    wrapped.__cause__ = refused
    assert sending._why(wrapped) == (
        "the receiver cannot be reached (its certificate is not accepted: Hostname mismatch)"
    )
    wrapped.__cause__ = ExceptionGroup("SESAME", [ConnectionRefusedError(111, "SESAME")])
    assert sending._why(wrapped) == "the receiver cannot be reached (Connection refused)"


def test_a_look_up_of_the_name_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(sending, "SECONDS_BEYOND", 0.3)
    looked_up, over = socket.getaddrinfo, threading.Event()

    def hang(host: Any, *rest: Any, **named: Any) -> Any:
        return over.wait(20) and [] if host == "slow.example" else looked_up(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    before = time.monotonic()
    assert failures("https://slow.example/") == ["no answer within 0.2 s"]
    assert time.monotonic() - before < 5
    over.set()


NOW = datetime(2026, 11, 27, 6, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("code", "header", "seconds"),
    [
        (429, "120", 120),
        (503, " 7 ", 7),
        (503, "Fri, 27 Nov 2026 06:10:00 GMT", 600),
        (503, "Fri, 27 Nov 2026 05:10:00 GMT", 0),
        (429, "Fri, 27 Nov 2037 06:10:00 GMT", 86_400),
        (429, "9" * 5000, 86_400),
        (429, "86401", 86_400),
        (429, "-5", 0),
        (429, "1e9", 0),
        (429, "١٢", 0),
        (429, "soon", 0),
        (429, "", 0),
        (429, None, 0),
        (429, "Fri, 99 Foo 2026 06:10:00 GMT", 0),
        (429, "Fri, 27 Nov 99999 06:10:00 GMT", 0),
        (500, "120", 0),
        (301, "120", 0),
    ],
)
def test_the_pause_that_a_receiver_asks_for_is_read_and_bounded(
    code: int, header: str | None, seconds: float
) -> None:
    assert requested_pause(code, header, NOW) == seconds


def seconds_to_next(batch: Sample) -> float:
    statement = "SELECT extract(epoch FROM next_attempt_at - now()) FROM webhook_deliveries"
    return float(batch.doc_eval(statement)[0][0])


def test_a_message_waits_as_long_as_the_receiver_asks_but_not_beyond_its_three_days(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    batch = finished(batch_of(documents=1))
    notifier.receiver.answers = [
        status(429, **{"retry-after": "5000"}),
        status(503, **{"retry-after": "1"}),
        status(503, **{"retry-after": "999999"}),
        status(503, **{"retry-after": "999999"}),
    ]
    asked = []
    for _ in range(3):
        notifier.send_when_due()
        asked.append(seconds_to_next(batch))
    # Never before its usual pause.
    assert asked == pytest.approx([5000, 60, 86_400], abs=5)
    batch.doc_eval("UPDATE batches SET completed_at = now() - interval '72 hours'")
    notifier.change("created_at = now() - interval '71 hours'")
    notifier.send_when_due()
    assert seconds_to_next(batch) == pytest.approx(3600, abs=5)


def test_a_receiver_that_is_gone_gets_no_further_attempt(batch_of: BatchOf, notifier: Notifier) -> None:
    batch = finished(batch_of(documents=1))
    notifier.receiver.answers = [status(410)]
    assert len(notifier.send().failed) == 1
    assert notifier.send_when_due() == SendResult([], {})
    (progress,) = every_progress(batch.databases)
    assert progress.webhook is not None
    assert progress.webhook.sentence == (
        "the webhook message was given up after 1 attempt: "
        "the receiver answered 410: it does not want this message"
    )


def test_a_receiver_may_know_either_of_two_secrets_while_one_replaces_the_other(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    finished(batch_of(documents=1))
    other, third = (f"whsec_{letter * 32}" for letter in "BC")
    through(notifier, webhook_secret=f"{other} {SECRET}").send()
    (message,) = notifier.receiver.messages
    is_genuine = documented_check()
    assert [is_genuine(secret, message.headers, message.body) for secret in (other, SECRET, third)] == [
        True,
        True,
        False,
    ]


def test_a_webhook_that_is_switched_off_leaves_nothing_to_send_and_goes_on_when_it_is_on_again(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    batch, old = finished(batch_of(documents=1)), finished(batch_of(documents=1, name="old"))
    notifier.receiver.answers = [status(500)] * 2
    failed = notifier.send().failed
    due = batch.doc_eval("SELECT next_attempt_at FROM webhook_deliveries WHERE batch_id = :id")
    notifications.end_if_switched_off(notifier.databases)
    assert len(notifications.warnings(batch.databases)) == 2, "not while there is a receiver"
    notifications.end_if_switched_off(through(notifier, webhook_url=None).databases)
    assert [progress.webhook for progress in every_progress(batch.databases)] == [None, None]
    assert notifications.warnings(batch.databases) == []
    assert batch.doc_eval("SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at IS NOT NULL") == [
        (0,)
    ]
    # What is older than three days is no news any more.
    batch.doc_eval("UPDATE batches SET completed_at = now() - interval '4 days' WHERE id = :old", old=old.id)
    notifier.change(f"created_at = now() - interval '3 days 1 hour' WHERE batch_id = {old.id}")
    # The receiver was not asked again before its time, which it has chosen by Retry-After.
    assert notifier.send() == SendResult([], {})
    assert batch.doc_eval("SELECT next_attempt_at FROM webhook_deliveries WHERE batch_id = :id") == due
    assert notifier.send_when_due().delivered == [one for one in failed if one.startswith(batch.key)]


def test_check_and_status_say_when_a_message_is_sent_again_and_that_nothing_sends_it(
    batch_of: BatchOf, notifier: Notifier
) -> None:
    batch = finished(batch_of(documents=1))
    notifier.receiver.answers = [status(500)]
    notifier.send()
    (said,) = notifications.warnings(batch.databases)
    assert re.fullmatch(
        rf"{batch.key}: the webhook message is still pending after 1 attempt: the receiver answered 500; "
        r"the next attempt is at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC",
        said,
    )
    notifier.change("next_attempt_at = now() - interval '1 hour'")
    (said,) = notifications.warnings(batch.databases)
    assert said.endswith(": check that doceval up runs, with its sensor completion_webhook")
    notifier.change("next_attempt_at = NULL, given_up_at = now()")
    assert len(notifications.warnings(batch.databases)) == 1
    notifier.change("given_up_at = now() - interval '8 days'")
    assert notifications.warnings(batch.databases) == []


def test_attempts_that_never_end_are_seen_and_do_not_go_on_for_ever(
    batch_of: BatchOf, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = finished(batch_of(documents=1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(notifications, "send_all", killed)
    for _ in range(notifications.MOST_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            notifier.send_when_due()
    assert notifier.send_when_due() == SendResult([], {})
    (progress,) = every_progress(batch.databases)
    assert progress.webhook is not None
    assert progress.webhook.sentence == (
        f"the webhook message was given up after {notifications.MOST_ATTEMPTS} attempts: "
        "an attempt was begun, and its end was not recorded"
    )


def test_no_secret_token_or_response_is_stored_sent_or_logged(
    batch_of: BatchOf, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    batch = finished(batch_of(documents=1))
    notifier.receiver.answers = [status(500), break_off, notifier.receiver.hang]
    with caplog.at_level(logging.DEBUG), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "SECONDS_TO_ANSWER", 0.2)
        said = [str(notifier.send_when_due()) for _ in range(4)]
    said += [record.getMessage() for record in caplog.records]
    said += [str(row) for row in batch.doc_eval("SELECT w::text FROM webhook_deliveries w")]
    said += [repr(notifier.databases.settings), str(next(every_progress(batch.databases)).as_json())]
    said += [message.body.decode() for message in notifier.receiver.messages]
    hidden = (SECRET, SECRET.removeprefix("whsec_"), "SESAME")
    assert len(notifier.receiver.messages) == 4
    assert [text for text in said if any(word in text for word in hidden)] == []
