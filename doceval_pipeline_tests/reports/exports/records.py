"""Records for tests: any that the databases could hold, and an ordinary one."""

from datetime import UTC, datetime
from types import NoneType
from typing import Any, get_args, get_type_hints

from hypothesis import strategies as st

from doceval_pipeline.domain.export_record import ExportRecord
from doceval_pipeline.reports.exports.value_types import TYPES

HOSTILE = (
    '=HYPERLINK("http://evil.invalid","x")',
    "+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "'=1",
    "''",
    '"=1',
    "\u200b=1",
    "\ufeff=1",
    "＝1",
    'ordinary, with "quotes", commas and a line\r\nend',
    "'",
    "",
    " ",
    "\x01\x08\x0b\x0c\x0e\x1f\x7f\x85\u2028\u2029\ufffe\uffff",
    "<r><t>x</t></r>",
    "<r></t></is></c><c><f>1+1</f></c></r>",
    "]]>&amp;<b>",
    "_x0041_x0042_ _x000D_ _x005F_x000A_",
    "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301",
    "http://evil.invalid/a mailto:x@y.invalid",
    '{"score": 1e999, "line": "\\u2028"}',
    "true",
    "007",
    "1e3",
    "2026-01-01",
)
# PostgreSQL holds neither a NUL nor half of a pair.
any_text = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
    st.text("=+-@'\" \t\r\n,;|_x04<r>/&\u2028", max_size=12),
)
_VALUES: dict[type, st.SearchStrategy[Any]] = {
    str: any_text,
    int: st.integers(-(2**31), 2**31 - 1),
    float: st.floats(-1e10, 1e10) | st.sampled_from([0.0, 0.1 + 0.2, 87.5, 1e-300]),
    bool: st.booleans(),
    datetime: st.datetimes(timezones=st.just(UTC)) | st.just(datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
}
_OPTIONAL = {name for name, hint in get_type_hints(ExportRecord).items() if NoneType in get_args(hint)}
any_record = st.builds(
    ExportRecord,
    **{
        name: (st.none() | _VALUES[kind]) if name in _OPTIONAL else _VALUES[kind]
        for name, kind in TYPES.items()
    },
)


def plain_record(**changes: Any) -> ExportRecord:
    """An ordinary record with the given changes."""
    values: dict[type, Any] = {
        str: "word",
        int: 1,
        float: 0.5,
        bool: True,
        datetime: datetime(2026, 1, 1, tzinfo=UTC),
    }
    return ExportRecord(**{name: values[kind] for name, kind in TYPES.items()} | changes)
