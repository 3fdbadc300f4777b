"""The columns of an export: their version, their types, and how a time is written."""

from datetime import datetime
from types import NoneType
from typing import get_args, get_type_hints

from doceval_pipeline.domain.export_record import COLUMNS, ExportRecord

# Increases when a column changes its meaning or type, or is removed; not for a new column at the end.
VERSION = 1


def _type(hint: object) -> type:
    """The type of the values in a column, apart from None."""
    (kind,) = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    return kind  # type: ignore[no-any-return] # hints of ExportRecord are plain types


_HINTS = get_type_hints(ExportRecord)
TYPES: dict[str, type] = {name: _type(_HINTS[name]) for name in COLUMNS}


def time_text(time: datetime) -> str:
    """A time in UTC as ISO 8601, always of the same length, so that it sorts as text."""
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
