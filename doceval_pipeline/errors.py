"""The errors that people are told about.

Every one is a single line that names the thing, the reason and the fix; the command line and
Dagster show exactly that line. None repeats what looks like a key. Nothing here knows a database, a
file or Dagster.

DocEvalError
├── PathError                  a path that cannot be resolved
├── ConfigurationError         an environment variable or a setting that cannot be used
├── EmbeddedServerError        the PostgreSQL behind DOCEVAL_HOME
├── DatabaseError              a database that refuses, cannot be reached, or is not ours
├── EvaluationFileError        an evaluation file; carries every problem with its line
├── UnknownBatch               no such batch
├── UnknownRecurring           no such recurring evaluation
├── RecurringError             a recurring evaluation that cannot make a batch now
├── BatchStateError            an action that the batch's state does not allow
├── StagingError               staging cannot go on; the batch becomes FAILED_STAGING
├── ComparisonError            two sides that have nothing in common to compare
├── FileError                  a file that cannot be written whole
├── ExportError                an export that cannot be made of these results or under this name
└── ArchiveError               an archive that cannot be written, read or restored
"""

import traceback
from pathlib import Path

from doceval_pipeline.redaction import without_keys

PACKAGE = Path(__file__).parent
# A library may quote what it was given.
LONGEST_REASON = 500


class DocEvalError(Exception):
    """Base of everything that is told to people as one line, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(without_keys(message))


class PathError(DocEvalError):
    """A path that cannot be resolved; names it."""


class ConfigurationError(DocEvalError):
    """A setting that cannot be used; names the variable."""


class EmbeddedServerError(DocEvalError):
    """The embedded PostgreSQL cannot be installed, started or stopped."""


class DatabaseError(DocEvalError):
    """A database that cannot be reached, refuses, or holds something that is not ours."""


class EvaluationFileError(DocEvalError):
    """An evaluation file that is wrong; `problems` has one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = [without_keys(problem) for problem in problems]
        super().__init__("\n".join(problems))


class UnknownBatch(DocEvalError):
    """No batch has this number, name or partition key."""


class UnknownRecurring(DocEvalError):
    """No recurring evaluation has this name."""


class RecurringError(DocEvalError):
    """A recurring evaluation that cannot make a batch now: paused, not due, or not readable."""


class BatchStateError(DocEvalError):
    """The state a batch is in does not allow what was asked."""


class StagingError(DocEvalError):
    """Staging cannot go on, and going on would do harm."""


class ComparisonError(DocEvalError):
    """Two sides cannot be compared: nothing is shared, or they are the same."""


class FileError(DocEvalError):
    """A file that cannot be written whole; names it. What was there before is still there."""


class ExportError(DocEvalError):
    """An export whose format cannot be told, or whose results do not fit together."""


class ArchiveError(DocEvalError):
    """An archive that cannot be written, is not what it should be, or does not fit in here."""


def in_one_line(error: BaseException) -> str:
    """One line for people for any error: the reason, and for a fault of ours also its place.

    Libraries wrap one error into another, of which the innermost says what happened.
    """
    cause = _innermost(error)
    if isinstance(cause, DocEvalError):
        return str(cause)
    words = _words(cause)
    if words is not None:
        return without_keys(words)
    reason = without_keys(_first_line(cause))[:LONGEST_REASON]
    place = f"{type(cause).__name__} at {_place(error) or _place(cause) or 'an unknown place'}"
    return f"{reason} ({place}): this is a fault of doceval, please report this line"


def _innermost(error: BaseException) -> BaseException:
    """The cause of all causes; of a group the first one."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
    return error


def _words(error: BaseException) -> str | None:
    """A sentence for errors that are no fault of ours; None for others."""
    match error:
        case RecursionError():
            return "something is nested too deeply to be read: make it flatter"
        case MemoryError():
            return "there is not enough memory: end other programs, or use a larger machine"
        case UnicodeDecodeError():
            return f"bytes that are not {error.encoding} were read: {error.reason} at byte {error.start:,}"
        case UnicodeEncodeError():
            return f"text cannot be written in {error.encoding}: set PYTHONUTF8=1, or a locale with UTF-8"
        case OSError(strerror=str() as reason, filename=file):
            return reason if file is None else f"{file}: {reason}"
    return None


def _first_line(error: BaseException) -> str:
    """The first line of what an error says; pydantic and Dagster keep their reasons in a list."""
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
    """The last frame of an error in our code."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE.parent)}:{frame.lineno}"
    return None
