"""Logs of Dagster's processes as one JSON object per line, if `DOCEVAL_LOG_FORMAT` is `json`.

`install` is called by the webserver, by the daemon, and wherever the definitions are loaded, which includes
code servers and runs. Dagster offers JSON for some of its loggers only, without batches and with the values
of all tags. Everything that looks like a key is removed.
"""

import logging
import re
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import structlog
from dagster import _loggers
from dagster._utils import log

from doceval_pipeline.redaction import without_keys
from doceval_pipeline.settings import JSON_LOGS, Settings

LOGGERS = ("dagster", "dagster-webserver")
RUN = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
BATCH = re.compile(r"\bbatch-([0-9]{6,10})\b", re.ASCII)
PARTITION_TAG = "dagster/partition"


def install() -> None:
    """Let this process, and Dagster in it, log JSON if the installation asks for it; may be called again."""
    if Settings.from_environment().log_format != JSON_LOGS:
        return
    # Dagster has no setting for these; a test detects changes in updates.
    log.get_structlog_json_formatter = formatter
    _loggers.create_console_logger = _run_logger  # type: ignore[attr-defined] # not exported
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda hook: _log_uncaught(hook.exc_type, hook.exc_value, hook.exc_traceback)
    if not logging.getLogger().handlers:
        # Otherwise the first warning of a library adds a handler with a format of its own.
        logging.getLogger().addHandler(_of_libraries())
    for logger in (logging.getLogger(), *map(logging.getLogger, LOGGERS)):
        for handler in logger.handlers:
            handler.setFormatter(formatter())


def of_uvicorn(configuration: dict[str, Any]) -> None:
    """Change uvicorn's configuration of logging to JSON if the installation asks for it."""
    if Settings.from_environment().log_format == JSON_LOGS:
        configuration["formatters"] = {name: {"()": formatter} for name in configuration["formatters"]}


@lru_cache(maxsize=1)
def formatter() -> structlog.stdlib.ProcessorFormatter:
    """Formats a record as one JSON object in one line."""
    shared: list[Callable[..., Any]] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    processors: list[Callable[..., Any]] = [
        _add_ids,
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _hide_keys,
        structlog.processors.JSONRenderer(),
    ]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=processors)


def line(level: str, text: str) -> str:
    """A line of `doceval up` itself."""
    record = logging.LogRecord("doceval.up", getattr(logging, level), "", 0, text, None, None)
    return formatter().format(record)


def _add_ids(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Add run and batch: of the run that logs, or those that the message names, if it names exactly one."""
    details = getattr(event["_record"], "dagster_meta", None) or {}
    tags = details.get("job_tags") or {}
    if details:
        event["event"] = details.get("orig_message") or event["event"]
        found = {
            "job": details.get("job_name"),
            "step": details.get("step_key"),
            "run_id": details.get("run_id"),
        }
        event |= {name: value for name, value in found.items() if value}
    text = str(event["event"])
    runs, batches = set(RUN.findall(text)), set(BATCH.findall(str(tags.get(PARTITION_TAG, "")) or text))
    if "run_id" not in event and len(runs) == 1:
        event["run_id"] = runs.pop()
    if len(batches) == 1:
        event["batch_id"] = int(batches.pop())
    return event


def _hide_keys(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    # Colours of messages are codes of terminals.
    return {
        name: without_keys(value) if isinstance(value, str) else value
        for name, value in event.items()
        if name != "color_message"
    }


def _of_libraries() -> logging.Handler:
    """A handler for loggers that have none; Dagster's have their own."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: not record.name.startswith("dagster"))
    return handler


def _run_logger(name: str, level: str | int) -> logging.Logger:
    """The logger of a run, instead of Dagster's coloured one."""
    logger = logging.Logger(name, level)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter())
    logger.addHandler(handler)
    return logger


def _log_uncaught(kind: Any, error: Any, trace: Any) -> None:
    record = logging.LogRecord(
        "dagster", logging.CRITICAL, "", 0, "uncaught error", None, (kind, error, trace)
    )
    print(formatter().format(record), file=sys.stderr, flush=True)
