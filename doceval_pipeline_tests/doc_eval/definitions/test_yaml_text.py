"""Reading YAML 1.2 by its core schema and JSON as JSON, with the location of each value."""

import json
import re
import time
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from doceval_pipeline.doc_eval.definitions import yaml_text
from doceval_pipeline.doc_eval.definitions.yaml_text import TextError, read_plain

# Copied from https://yaml.org/spec/1.2.2/#1032-tag-resolution.
SPECIFICATION: tuple[tuple[str, Any], ...] = (
    (r"null|Null|NULL|~|", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    (r"[-+]?[0-9]+", int),
    (r"0o[0-7]+", lambda text: int(text[2:], 8)),
    (r"0x[0-9a-fA-F]+", lambda text: int(text[2:], 16)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
)
NOT_JSON = r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN"
YAML_1_1 = [
    *("Yes", "No", "yes", "no", "on", "off", "On", "y", "n", "Y", "N", "1_000", "0b11", "22:30", "1:30:00"),
    *("190:20:30.15", "017", "08", "0o17", "0o8", "0x1F", "+0x1F", "-0o7", "1e-1", "1E5", "1e5", ".5", "5."),
    *("+.5", "-1.5e+3", "1__0", "2026-01-01", "2026-12-01T22:00:00Z", "2026-01-01 10:00:00", "=", "<<", "."),
    *("tRue", "nULL", "~", "null", "", "True", "+1", "-0", "00", "1e", "e1", ".e1", "1.e3", "12" * 40),
]


def read(text: str) -> Any:
    found = read_plain(text)
    assert found is not None
    assert found.mistakes == []
    return found.content


def mistakes(text: str) -> list[str]:
    found = read_plain(text)
    assert found is not None
    return [f"{found.marks[one.location][0]}: {one.problem}" for one in found.mistakes]


def by_specification(scalar: str) -> Any:
    for pattern, value in SPECIFICATION:
        if re.fullmatch(pattern, scalar):
            return value(scalar)
    return scalar


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("scalar", YAML_1_1)
def test_a_scalar_is_what_the_specification_says(scalar: str) -> None:
    assert same(read(f"a: {scalar}")["a"], by_specification(scalar))
    if scalar:
        assert same(read(f"a: [{scalar}]")["a"][0], by_specification(scalar))
        assert same(read(f"- {scalar}")[0], by_specification(scalar))
        assert read(f'a: "{scalar}"') == {"a": scalar}
        assert read(f"{scalar}: 1" if scalar != "<<" else '"<<": 1') == {scalar: 1}


@settings(deadline=None)
@given(st.text("0123456789+-._eExobBaAfFnNiItTrRuUlLsSyY:~", min_size=1, max_size=8))
def test_any_scalar_is_what_the_specification_says(scalar: str) -> None:
    try:
        (node,) = yaml.compose(f"[{scalar}]", Loader=yaml.SafeLoader).value
    except (yaml.YAMLError, ValueError):
        return
    if not isinstance(node, yaml.ScalarNode) or node.value != scalar or re.fullmatch(NOT_JSON, scalar):
        return
    if isinstance(by_specification(scalar), float) and abs(by_specification(scalar)) == float("inf"):
        return
    assert same(read(f"a: [{scalar}]")["a"][0], by_specification(scalar))


@pytest.mark.parametrize("number", [".inf", "-.Inf", ".nan", ".NAN", "1e400"])
def test_a_number_that_json_cannot_store_is_refused_with_its_line(number: str) -> None:
    assert mistakes(f"a:\n  - 1\n  - {number}") == [
        "3: is infinite or not a number, which JSON cannot store: write a finite number, or null"
    ]


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4), st.booleans(), st.sampled_from([None, "\t", 1]))
def test_json_is_read_as_json(value: dict[str, Any], escaped: bool, indent: str | int | None) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    assert json.dumps(read(text)) == json.dumps(value)


def test_an_emoji_is_read_in_every_form() -> None:
    for text in (r'{"\ud83d\ude00": "\ud83d\ude00"}', r'"\ud83d\ude00": "\U0001F600"', "😀: 😀"):
        assert read(text) == {"😀": "😀"}


@pytest.mark.parametrize("half", [r"\ud83d", r"\ude00", r"\ude00\ud83d", r"\ud83d\ude00\ud83d"])
def test_half_a_surrogate_pair_is_refused_at_its_place(half: str) -> None:
    for text in (f'{{"a":\n"{half}"}}', f'{{"a": 1,\n"{half}": 2}}', f'a:\n  "x{half}y"'):
        (line,) = mistakes(text)
        assert "contains half a surrogate pair, \\ud" in line


def test_a_merge_key_merges_and_own_keys_win() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3}\nc: {<<: [*b, *a], z: No}\nd: {x: 4, <<: *a}"
    assert read(text)["c"] == {"x": 1, "y": 3, "z": "No"}
    assert read(text)["d"] == {"x": 4, "y": 2}
    assert mistakes("a:\n  <<: 3") == [
        "2: merges a value that is not a mapping: merge a mapping, or quote '<<'"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "1: appears again in line 3"),
        ('{"a": 1,\n"a": 2}', "1: appears again in line 2"),
        ("1: a\n'1': b", "1: appears again in line 2"),
        ("a: 1\nb: {? [x] : 1}", "2: has a key that is a list or a mapping"),
        ("a: 1\nb: !!binary aGk=", "2: has the tag tag:yaml.org,2002:binary, which is not supported"),
        ("a: !!python/object:os.system {}", "1: has the tag"),
        ("a: !x {b: 1}", "1: has the tag !x"),
        ("a: !!bool No", "1: is not a valid bool"),
        ("a: !!int x", "1: is not a valid int"),
        ("a: " + "9" * 5000, "1: is not a valid int"),
        ('{"a": 1,\n"b": NaN}', "2: is NaN, which is not valid JSON"),
    ],
)
def test_an_unreadable_value_is_reported_with_its_line(text: str, expected: str) -> None:
    (line,) = mistakes(text)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("%YAML 1.1\n---\na: No", 1, "%YAML 1.1 is not supported"),
        ("a: 1\n---\nb: 2", 2, "a second document begins"),
        ("a:\n\t- b", 2, "a tab cannot indent YAML: use spaces"),
        ("a: 1\nb: x: y", 2, "a ': ' is not expected here"),
        ("a: {b: c: d}", 1, "a ': ' is not expected here"),
        ("a: 1\nb: @x", 2, "a value cannot begin with @: put it in quotes"),
        ("a: [*.pdf]", 1, "a value cannot begin with *: put it in quotes"),
        ("a: *b", 1, "an alias (*name) is not defined above"),
        ("a: 1\nb: 'x\n\nc: 2\n", 2, "a quotation mark is never closed"),
        ("a:\n  b: 1\n   c: 2", 3, "a ': ' is not expected here"),
        ("a: x\nb: y\x07", 2, "contains the control character U+0007"),
        ("a: x\nb: y\x00", 2, "contains the control character U+0000"),
        ("a: x\nb: y\u2028z", 2, "contains the invisible character U+2028"),
        ("a: x\nb: y\x85z", 2, "contains the invisible character U+0085"),
    ],
)
def test_text_that_is_not_yaml_is_reported_in_plain_words(text: str, line: int, expected: str) -> None:
    with pytest.raises(TextError) as caught:
        read_plain(text)
    assert caught.value.line == line
    assert expected in caught.value.problem
    assert "\n" not in caught.value.problem


def bomb(first: str, nested: str) -> str:
    """Nine aliases of the line above on each line."""
    lines = [f"a: &a {first}"]
    for above, name in pairwise("abcdefghi"):
        lines.append(f"{name}: &{name} " + nested.replace("ALIASES", ", ".join([f"*{above}"] * 9)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb("[x, x]", "[ALIASES]"),
        bomb("{x: 1}", "{<<: [ALIASES]}"),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a {<<: *a}",
        "[" * 100_000,
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "- " * 100_000,
        "\n".join(" " * n + "a:" for n in range(2000)),
        "[" + "{}," * 20_000 + "]",
    ],
    ids=range(10),
)
def test_a_text_that_would_grow_without_bound_is_refused_once_and_soon(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_text, "MOST_VALUES", 5000)
    started = time.monotonic()
    with pytest.raises(TextError, match=r"contains more than|is nested deeper"):
        read_plain(text)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n"])
def test_an_empty_text_has_no_content(text: str) -> None:
    assert read_plain(text) is None
