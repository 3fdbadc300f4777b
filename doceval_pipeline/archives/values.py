"""Types of values in an archive, with their bounds. Archives are hostile until they are checked."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from doceval_pipeline.archives.json_text import is_long

LONGEST_SHORT_TEXT = 1000
# Bounds of the databases for times written by processors.
_EARLIEST, _LATEST = "1970-01-01T00:00:00+00:00", "9990-01-01T00:00:00+00:00"
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?\+00:00")
_INFINITE = ("-infinity", "infinity")


def _moment(value: str) -> str:
    if not (_MOMENT.fullmatch(value) and _EARLIEST <= value <= _LATEST):
        raise ValueError
    datetime.fromisoformat(value)
    return value


def _moment_or_infinity(value: str) -> str:
    return value if value in _INFINITE else _moment(value)


def _short(value: str) -> str:
    if is_long(value):
        raise ValueError
    return value


Text = Annotated[str, Field()]
"""Any text; the JSON reader limits its length."""
ShortText = Annotated[str, Field(max_length=LONGEST_SHORT_TEXT), AfterValidator(_short)]
Named = Annotated[ShortText, Field(min_length=1)]
Moment = Annotated[ShortText, AfterValidator(_moment)]
"""A UTC time as PostgreSQL writes it, in years that all programs can read."""
AnyMoment = Annotated[ShortText, AfterValidator(_moment_or_infinity)]
"""The same, or -infinity or infinity."""
Json = dict[str, Any]


class Values(BaseModel):
    """Base: unknown keys are rejected, and types are not converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
