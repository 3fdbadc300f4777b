"""Every error is shown as one line with a reason, on the terminal and in Dagster's runs."""

import sys
from collections.abc import Callable
from typing import Any

import dagster as dg
import psycopg2
import pydantic
import pytest
from alembic.util.exc import CommandError
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._utils.error import serializable_error_info_from_exc_info
from sqlalchemy.exc import DataError, NoResultFound, OperationalError, TimeoutError

from doceval_pipeline import cli
from doceval_pipeline.cli import output
from doceval_pipeline.cli.runs import _reason
from doceval_pipeline.defs import steps
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.errors import DatabaseError, EvaluationFileError, StagingError, in_one_line
from doceval_pipeline.redaction import NOT_SHOWN

KEY = "sk-abcdefghijklmnop0123456789"


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


class Model(pydantic.BaseModel):
    number: int


def invalid() -> Exception:
    try:
        Model.model_validate({"number": KEY})
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


RAISED: dict[str, tuple[Callable[[], Exception], str]] = {
    "ours": (lambda: StagingError("no folder"), "no folder"),
    "ours within Dagster's": (
        lambda: caused(dg.DagsterInvariantViolationError("Error occurred:"), StagingError("no folder")),
        "no folder",
    ),
    "a connection that was lost": (
        lambda: OperationalError("SELECT secret", {}, psycopg2.OperationalError("server closed\nmore")),
        "the connection to the database was lost (server closed): try again when the server answers",
    ),
    "a refused value": (
        lambda: DataError("INSERT secret", {}, psycopg2.DataError("integer out of range")),
        "the database refused: integer out of range",
    ),
    "the driver's without a word": (lambda: psycopg2.Error(), "the database refused: Error"),
    "no free connection": (
        lambda: TimeoutError("QueuePool limit reached"),
        "the database query failed: QueuePool limit reached",
    ),
    "a missing row": (
        lambda: NoResultFound("No row was found"),
        "the database query failed: No row was found",
    ),
    "bytes": (
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        "the data is not valid utf-8: invalid start byte at byte 0",
    ),
    "a terminal": (
        lambda: UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
        "text cannot be encoded as ascii: set PYTHONUTF8=1, or use a UTF-8 locale",
    ),
    "depth": (
        lambda: RecursionError("maximum"),
        "the data is nested too deeply: make it flatter",
    ),
    "memory": (
        lambda: MemoryError(),
        "there is not enough memory: close other programs, or use a larger machine",
    ),
    "a file": (
        lambda: PermissionError(13, "Permission denied", "/x/y"),
        "/x/y: Permission denied",
    ),
    "a group": (
        lambda: ExceptionGroup("several", [OSError(28, "No space left on device")]),
        "No space left on device",
    ),
    "a key": (lambda: KeyError("batch"), "'batch' is missing (KeyError at "),
    "nothing said": (lambda: ValueError(), "no reason was given (ValueError at "),
    "a secret": (lambda: ValueError(f"cannot use {KEY}"), f"cannot use {NOT_SHOWN} (ValueError at "),
    "several lines": (lambda: ValueError("\n first:\nsecond"), "first (ValueError at "),
    "pydantic's": (invalid, "number: Input should be a valid integer"),
    "Dagster's": (
        lambda: dg.DagsterInvariantViolationError("No partition"),
        "No partition (DagsterInvariantViolationError at ",
    ),
    "Dagster's without its server": (
        lambda: DagsterUserCodeUnreachableError("Could not reach user code server"),
        "Could not reach user code server (DagsterUserCodeUnreachableError at ",
    ),
    "Alembic's": (lambda: CommandError("Can't locate revision"), "Can't locate revision (CommandError at "),
}
EACH = pytest.mark.parametrize("what", RAISED)


@EACH
def test_the_command_line_says_it_in_one_line(
    what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make, line = RAISED[what]

    def fail() -> None:
        raise make()

    monkeypatch.setattr(cli, "cli", fail)
    monkeypatch.setattr(output.errors, "width", 1000)
    # Not main(), which changes the streams and the umask of this process.
    assert cli._run() == 1
    said = capfd.readouterr().err
    assert said.startswith(line)
    assert len(said.splitlines()) == 1
    assert KEY not in said


class Nothing:
    """In place of a resource and a context that are not asked for anything."""

    def open(self) -> None:
        """No databases."""


@EACH
def test_a_step_of_dagster_fails_with_the_same_line(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, line = RAISED[what]
    nothing: Any = Nothing()
    monkeypatch.setattr(steps, "_refuse_config_of_other_ops", lambda context: None)
    with pytest.raises(dg.Failure) as failed, steps.open_step(nothing, nothing):
        raise make()
    assert str(failed.value.description).startswith(line)
    assert len(str(failed.value.description).splitlines()) == 1


def test_a_retry_that_a_step_requests_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = Nothing()
    monkeypatch.setattr(steps, "_refuse_config_of_other_ops", lambda context: None)
    with pytest.raises(dg.RetryRequested), steps.open_step(nothing, nothing):
        raise dg.RetryRequested


def test_a_file_with_several_mistakes_keeps_a_line_for_each() -> None:
    assert in_one_line(EvaluationFileError(["one", "two"])).splitlines() == ["one", "two"]


def test_the_message_of_a_bug_has_its_place() -> None:
    no_number: Any = "seven"
    with pytest.raises(ValueError, match="format code") as raised:
        partition_key(no_number)
    line = in_one_line(raised.value)
    assert "(ValueError at doceval_pipeline/doc_eval/batches.py:" in line
    assert line.endswith("this is a bug in doceval, please report this line")


def test_errors_recorded_by_dagster_are_shown_without_class_names() -> None:
    try:
        try:
            raise DatabaseError("DOC_EVAL_URL: the server does not answer")
        except DatabaseError as error:
            raise dg.DagsterInvariantViolationError("Error occurred during initialization") from error
    except dg.DagsterInvariantViolationError:
        recorded = serializable_error_info_from_exc_info(sys.exc_info())
    assert _reason(recorded) == "DOC_EVAL_URL: the server does not answer"
