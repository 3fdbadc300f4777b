"""The errors that people are told about.

Every one is a single line that names the thing, the reason and the mend; the command line and
Dagster show exactly that line. None repeats what looks like a key. Nothing here knows a database, a
file or Dagster.

DocEvalError
├── PathError                  a path that cannot be resolved
├── ConfigurationError         an environment variable or a setting that cannot be used
├── EmbeddedServerError        the PostgreSQL behind DOCEVAL_HOME
├── DatabaseError              a database that refuses, cannot be reached, or is not ours
├── EvaluationFileError        an evaluation file; carries every problem with its line
├── UnknownBatch               no such batch
├── BatchStateError            an action that the batch's state does not allow
├── StagingError               staging cannot go on; the batch becomes FAILED_STAGING
├── ComparisonError            two sides that have nothing in common to compare
├── FileError                  a file that cannot be written whole
├── ExportError                an export that cannot be made of these results or under this name
└── ArchiveError               an archive that cannot be written, read or restored
"""

from doceval_pipeline.credentials import without_keys


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
