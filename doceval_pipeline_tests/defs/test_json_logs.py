"""Logs in JSON are one object per line, with the ids of run and batch and without keys."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import _loggers
from dagster._utils import log

from doceval_pipeline.defs import json_logs
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings

KEY = "sk-proj-abcdefgh1234567890abcd"
RUN = "d795f2aa-12f3-439c-929e-061a592db440"


def logged(message: str, *arguments: object, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord(
        "dagster.daemon", logging.INFO, "", 0, message, arguments, more.pop("exc_info", None)
    )
    record.__dict__.update(more)
    line = json_logs.formatter().format(record)
    assert len(line.splitlines()) == 1
    return dict(json.loads(line))


def test_a_line_has_time_level_logger_and_text() -> None:
    found = logged("%s sensors", 3)
    assert found.pop("timestamp").endswith("Z")
    assert found == {"event": "3 sensors", "level": "info", "logger": "dagster.daemon"}


def test_a_line_of_a_run_has_run_batch_job_and_step() -> None:
    meta = {
        "run_id": RUN,
        "job_name": "stage_batch",
        "step_key": "queue_rows",
        "job_tags": {"dagster/partition": "batch-000070", "other": KEY},
        "orig_message": "queued",
    }
    found = logged("stage_batch - queued", dagster_meta=meta)
    assert {name: found.get(name) for name in ("event", "run_id", "batch_id", "job", "step")} == {
        "event": "queued",
        "run_id": RUN,
        "batch_id": 70,
        "job": "stage_batch",
        "step": "queue_rows",
    }


def test_a_line_that_names_one_run_or_batch_has_its_id() -> None:
    found = logged(f"Launching run {RUN} of batch-000007")
    assert (found["run_id"], found["batch_id"]) == (RUN, 7)
    assert "batch_id" not in logged("batch-000007 and batch-000008")


def test_keys_are_hidden_in_text_and_tracebacks_and_lines_stay_single() -> None:
    try:
        raise ValueError(f"first\nsecond {KEY}")
    except ValueError:
        found = logged(f"failed with {KEY}\nsecond line", exc_info=sys.exc_info())
    assert "second" in found["exception"]
    assert "Traceback" in found["exception"]
    assert KEY not in json.dumps(found)


def test_another_format_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match="DOCEVAL_LOG_FORMAT is 'xml': write plain or json"):
        Settings.from_environment({"DOCEVAL_LOG_FORMAT": "xml"})


def test_dagster_still_has_what_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.get_structlog_json_formatter, _loggers.create_console_logger
    assert all(map(callable, before))
    monkeypatch.setattr(log, "get_structlog_json_formatter", before[0])
    json_logs.install()
    assert (log.get_structlog_json_formatter, _loggers.create_console_logger) == before


RUNNING = """
import sys, dagster as dg, warnings
from doceval_pipeline.defs import json_logs
json_logs.install()
import logging
logging.warning("of a library KEY")
@dg.op
def speak(context):
    context.log.info("one line\\nand KEY")
    raise ValueError("KEY")
@dg.job
def talk():
    speak()
talk.execute_in_process(tags={"dagster/partition": "batch-000012"}, raise_on_error=False)
raise RuntimeError("KEY\\nlast")
"""


def test_a_run_and_an_error_that_nobody_catches_are_json(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", RUNNING.replace("KEY", KEY)],
        env={"DOCEVAL_LOG_FORMAT": "json", "DOCEVAL_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in (ended.stdout + ended.stderr).splitlines()]
    assert KEY not in ended.stdout + ended.stderr
    own = [line for line in lines if line["event"].startswith("one line")]
    assert [(line["batch_id"], line["job"], line["step"]) for line in own] == [(12, "talk", "speak")]
    assert lines[0]["logger"] == "root"
    assert lines[-1]["level"] == "critical"
    assert "RuntimeError" in lines[-1]["exception"]
