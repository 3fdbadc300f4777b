"""Tables in text: what counting finds, parsing would find, too."""

from hypothesis import given
from hypothesis import strategies as some

from doceval_pipeline.documents.formats.table_text import _TYPES, _is_table, table_type

LINES = some.text(alphabet=',;\t" ab\r', max_size=8)


@given(some.lists(LINES, max_size=5), some.booleans())
def test_a_text_is_a_table_exactly_if_its_parsed_rows_are_one(lines: list[str], is_whole: bool) -> None:
    text = "\n".join(lines)
    parsed = [
        kind
        for separator, kind in _TYPES.items()
        if separator in text.partition("\n")[0] and _is_table(text.encode(), separator, is_whole=is_whole)
    ]
    assert table_type(text.encode(), is_whole=is_whole) == next(iter(parsed), None)
