"""The webhook sensor is off without a receiver, and no tick fails because of the receiver."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.webhook import completion_webhook
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.batches.webhook.receiver import Receiver, status
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import tick

BatchOf = Callable[..., Sample]
SECRET = "whsec_" + "A" * 32


def test_without_a_receiver_the_sensor_is_off_and_opens_nothing() -> None:
    sensor = completion_webhook(Settings(Path("/nowhere")))
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    # Nothing is opened: there is no installation here.
    said: Any = sensor(dg.build_sensor_context(), doc_eval=DocEval())
    assert "notifications are disabled" in str(said.skip_message)


def test_a_tick_reports_what_was_sent_and_what_failed(
    batch_of: BatchOf, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    with Receiver([status(500)]) as receiver:
        monkeypatch.setenv("DOCEVAL_WEBHOOK_URL", receiver.url)
        monkeypatch.setenv("DOCEVAL_WEBHOOK_SECRET", SECRET)
        sensor = completion_webhook(Settings.from_environment())
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        assert tick(sensor, instance).skip_message == "no pending messages"
        batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50")
        poll(batch.databases)
        write_report(batch.databases, batch.id)
        assert str(tick(sensor, instance).skip_message).endswith(": the receiver answered 500")
        batch.doc_eval("UPDATE webhook_deliveries SET next_attempt_at = now()")
        assert str(tick(sensor, instance).skip_message).startswith(f"sent: {batch.key}-")
