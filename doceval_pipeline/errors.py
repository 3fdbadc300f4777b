"""Errors with a message for people.

Each message is one line that says what is wrong, where, and what to do; the command line and Dagster show
exactly that line. Anything that looks like a key is removed from it. This module does not depend on
databases, files or Dagster.

DocEvalError
├── PathError                  a path cannot be resolved
├── ConfigurationError         an environment variable or another setting is invalid
├── EmbeddedServerError        the embedded PostgreSQL server cannot be installed, started or stopped
├── DatabaseError              a database cannot be reached, refuses a statement, or is not doceval's
├── EvaluationFileError        an evaluation file is invalid; has every problem with its line
├── UnknownBatch               the batch does not exist
├── UnknownRecurring           the recurring evaluation does not exist
├── RecurringError             a recurring evaluation cannot create a batch now
├── BatchStateError            the state of the batch does not allow the action
├── StagingError               staging cannot continue; the batch becomes FAILED_STAGING
├── ComparisonError            two sides share nothing that could be compared
├── FileError                  a file cannot be written; the previous one is unchanged
├── ExportError                these results cannot be exported, or not under this name
└── ArchiveError               an archive cannot be written, read or restored
"""

import os
import traceback
from pathlib import Path

from doceval_pipeline.redaction import without_keys

PACKAGE = Path(__file__).parent
# Limit of library messages, in characters: they may quote long values.
LONGEST_REASON = 500


class DocEvalError(Exception):
    """Base of all errors that are shown as one line, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(without_keys(message))


class PathError(DocEvalError):
    """A path cannot be resolved; the message names it."""


class ConfigurationError(DocEvalError):
    """A setting is invalid; the message names the variable."""


class EmbeddedServerError(DocEvalError):
    """The embedded PostgreSQL cannot be installed, started or stopped."""


class DatabaseError(DocEvalError):
    """A database cannot be reached, refuses a statement, or is not one of doceval's."""


class EvaluationFileError(DocEvalError):
    """An evaluation file is invalid; `problems` has one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = [without_keys(problem) for problem in problems]
        super().__init__("\n".join(problems))


class UnknownBatch(DocEvalError):
    """No batch has this number, name or partition key."""


class UnknownRecurring(DocEvalError):
    """No recurring evaluation has this name."""


class RecurringError(DocEvalError):
    """A recurring evaluation cannot create a batch now: it is paused, not due, or invalid."""


class BatchStateError(DocEvalError):
    """The state of the batch does not allow the action."""


class StagingError(DocEvalError):
    """Staging cannot continue safely."""


class ComparisonError(DocEvalError):
    """Two sides cannot be compared: they share nothing, or they are the same."""


class FileError(DocEvalError):
    """A file cannot be written completely; the message names it. The previous file is unchanged."""


class ExportError(DocEvalError):
    """The format of an export is unknown, or its results do not fit together."""


class ArchiveError(DocEvalError):
    """An archive cannot be written, is damaged, or does not fit into this installation."""


def in_one_line(error: BaseException) -> str:
    """The message of any error in one line; for a bug in doceval also the class and the line of code.

    Libraries wrap one error into another; the innermost one has the reason.
    """
    cause = _innermost(error)
    if isinstance(cause, DocEvalError):
        return str(cause)
    message = _system_message(cause)
    if message is not None:
        return without_keys(message)
    reason = without_keys(_first_line(cause))[:LONGEST_REASON]
    place = f"{type(cause).__name__} at {_place(error) or _place(cause) or 'an unknown place'}"
    return f"{reason} ({place}): this is a bug in doceval, please report this line"


def _innermost(error: BaseException) -> BaseException:
    """The innermost cause of an error; of a group, that of its first error."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
    return error


def _system_message(error: BaseException) -> str | None:
    """The message of an error that comes from the machine or its files; None for other errors."""
    match error:
        case RecursionError():
            return "the data is nested too deeply: make it flatter"
        case MemoryError():
            return "there is not enough memory: close other programs, or use a larger machine"
        case UnicodeDecodeError():
            return f"the data is not valid {error.encoding}: {error.reason} at byte {error.start:,}"
        case UnicodeEncodeError():
            return f"text cannot be encoded as {error.encoding}: set PYTHONUTF8=1, or use a UTF-8 locale"
        case FileNotFoundError(filename=None) if not _has_working_folder():
            return "the current folder was deleted: change to one that exists, and repeat the command"
        case OSError(strerror=str() as reason, filename=file):
            return reason if file is None else f"{file}: {reason}"
    return None


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    """The first line of an error's message; pydantic and Dagster have a list of reasons."""
    if isinstance(error, KeyError) and error.args:
        return f"{error.args[0]!r} is missing"
    reasons = getattr(error, "errors", None)
    listed = reasons() if callable(reasons) else reasons
    if isinstance(listed, (list, tuple)) and listed:
        first = listed[0]
        if isinstance(first, dict):
            return f"{'.'.join(map(str, first.get('loc', ())))}: {first.get('msg', 'not valid')}"
        return " ".join(str(getattr(first, "message", first)).split())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(":.") if lines else "no reason was given"


def _place(error: BaseException) -> str | None:
    """File and line of the innermost frame in this package."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE.parent)}:{frame.lineno}"
    return None
