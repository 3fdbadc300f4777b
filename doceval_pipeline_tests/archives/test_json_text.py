"""JSON in pieces is read as the whole of it is, but for its long texts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from doceval_pipeline.archives import json_text
from doceval_pipeline.archives.json_text import JsonError, is_long, parse, value_of, values

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@examples(deadline=None, max_examples=200)
@given(value=VALUE, ascii_only=st.booleans(), size=st.integers(1, 20))
def test_a_value_in_pieces_is_the_value(value: Any, ascii_only: bool, size: int) -> None:
    written = json.dumps(value, ensure_ascii=ascii_only).encode()
    text = json_text._Text()
    text._structure = json_text._Structure()
    for place in range(0, len(written), size):
        text.add(written[place : place + size])
    assert text.value() == value == parse(written)


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_long_text_stands_for_itself_however_it_is_written(size: int, ascii_only: bool) -> None:
    long = "ä😀\n" * 20_000
    written = json.dumps({"a": long, "b": "short"}, ensure_ascii=ascii_only).encode()
    found = value_of(written[place : place + size] for place in range(0, len(written), size))
    assert is_long(found["a"])
    assert found["b"] == "short"
    assert found["a"] == value_of([json.dumps({"a": long}).encode()])["a"]
    other = value_of([json.dumps({"a": f"{long}."}).encode()])["a"]
    assert found["a"] != other


def test_each_line_is_a_value() -> None:
    assert list(values([b'{"a":', b" 1}\n[2", b"]\n3\n"])) == [{"a": 1}, [2], 3]
    with pytest.raises(JsonError, match="an unterminated line"):
        list(values([b"1\n2"]))


@pytest.mark.parametrize(
    "written",
    [
        b"", b"{", b'{"a":1,"a":2}', b"NaN", b"-Infinity", b'"\\ud800"', b'"\\u0000"', b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xff\xfe1\x00", b'"\n"', b"9" * 5000, b"[" * 101 + b"]" * 101, b"[" * 60_000,
        b'"' + b"\\x" * 40_000,
        b'"' + b"a" * 70_000 + b"\\ud83d" + b"a" * 20 + b'"', b'"' + b"a" * 70_000 + b'\xc3"',
    ],
)  # fmt: skip
def test_what_a_database_could_not_store_is_refused(written: bytes) -> None:
    with pytest.raises(JsonError):
        value_of([written])
