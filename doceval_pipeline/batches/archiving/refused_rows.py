"""Reports in one line which member of an archive the databases reject, and why."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.archives.format import ATTEMPTS, BATCH, DOCS, FILES, HISTORY, PROGRESS
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.names import printable

# Classes of SQLSTATE: invalid values, violated constraints, and limits of the server.
_INVALID_VALUE, _VIOLATED_CONSTRAINT, _LIMIT_EXCEEDED = "22", "23", "54"
_REASONS = {
    "23502": "{column} is missing in a row",
    "23503": "a row refers to a missing row ({rule})",
    "23505": "a row is duplicated or already exists ({rule})",
    "23514": "a row violates the constraint {rule}",
}
# Members by the table of their rows; a restore first uses temporary tables with a prefix.
_MEMBERS = {
    "attempts": ATTEMPTS,
    "llm_responses": ATTEMPTS,
    "docs": DOCS,
    "files": FILES,
    "documents": FILES,
    "batch_documents": FILES,
    "batch_progress": PROGRESS,
    "connection_history": HISTORY,
}
_TABLE = re.compile(r"\b(?:archived_|lines_of_)?([a-z_]+)\b")
_LONGEST_REASON = 200


@contextmanager
def refused_rows(file: str) -> Iterator[None]:
    """Turns database errors about rows of an archive into one line.

    Parameters
    ----------
    file
        Name of the archive.

    Raises
    ------
    ArchiveError
        The database rejects a value or a row. Other errors of the driver pass through.
    """
    try:
        yield
    except (DBAPIError, psycopg2.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if (getattr(cause, "pgcode", None) or "")[:2] not in (
            _INVALID_VALUE,
            _VIOLATED_CONSTRAINT,
            _LIMIT_EXCEEDED,
        ):
            raise
        statement = str(error.statement) if isinstance(error, DBAPIError) else ""
        raise ArchiveError(
            f"{file} cannot be restored ({_member(cause, statement)}: {_reason(cause)}): nothing was "
            "written; use another copy, or archive the batch again in its original installation"
        ) from None


def _member(cause: BaseException | None, statement: str) -> str:
    """The member whose rows a statement reads; batch.json by default, which most tables are read from."""
    diagnosis = getattr(cause, "diag", None)
    places = (getattr(diagnosis, "table_name", None), statement, getattr(diagnosis, "context", None))
    tables = _TABLE.findall(" ".join(place or "" for place in places))
    return next((_MEMBERS[table] for table in tables if table in _MEMBERS), BATCH)


def _reason(cause: BaseException | None) -> str:
    diagnosis = getattr(cause, "diag", None)
    known = _REASONS.get(getattr(cause, "pgcode", None) or "")
    if known is not None:
        return known.format(
            column=getattr(diagnosis, "column_name", None), rule=getattr(diagnosis, "constraint_name", None)
        )
    return printable(str(getattr(diagnosis, "message_primary", None)))[:_LONGEST_REASON]
