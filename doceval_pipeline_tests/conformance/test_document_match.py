"""A document is recognised in a request however it is sent, and so is where it was truncated."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.conformance.cases import (
    KNOWN_CUT,
    MIB,
    ConformanceCase,
    Scenario,
    case_number_in,
    cases_of,
    text_of,
)
from doceval_pipeline.conformance.document_match import DocumentMatch, match_document


def sent(content: str) -> Any:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": content}]}]}


@given(st.binary(max_size=400), st.text(alphabet="abc: \n", max_size=20))
def test_base64_anywhere_in_a_text_is_found(content: bytes, before: str) -> None:
    case = ConformanceCase(1, "any", content)
    encoded = base64.b64encode(content).decode()
    assert match_document(case, sent(f"{before},{encoded} ")).is_complete
    assert match_document(case, {"data": f"data:x/y;base64,{encoded}"}).is_complete


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400), st.text(max_size=20))
def test_text_anywhere_in_a_text_is_found(content: str, before: str) -> None:
    assert match_document(ConformanceCase(1, "any", content.encode()), sent(f"{before}{content}")).is_complete


@given(st.integers(20, 3_999))
def test_a_cut_is_measured(length: int) -> None:
    case = ConformanceCase(1, "cut", text_of(4_000, "cut"))
    assert match_document(case, sent(f"Read: {case.content[:length].decode()}")) == DocumentMatch(
        is_complete=False, characters=length, encoding="text"
    )
    encoded = base64.b64encode(case.content)[: length // 4 * 4].decode()
    if len(encoded) >= 16:
        assert match_document(case, sent(f"{encoded} end")) == DocumentMatch(
            is_complete=False, characters=len(encoded), encoding="base64"
        )


def test_the_known_cut_is_measured_to_the_character() -> None:
    case = ConformanceCase(1, "large", text_of(MIB + 1, "large"))
    encoded = base64.b64encode(case.content)[:KNOWN_CUT].decode()
    assert match_document(case, sent(encoded)) == DocumentMatch(
        is_complete=False, characters=KNOWN_CUT, encoding="base64"
    )


@pytest.mark.parametrize("request_", [None, [], "", {"a": 1}, sent("something else")])
def test_a_request_without_the_document_does_not_match(request_: Any) -> None:
    case = ConformanceCase(1, "some", text_of(100, "some"))
    assert match_document(case, request_) == DocumentMatch(is_complete=False)


def test_every_case_is_identified_by_its_prompt_and_has_the_size_of_its_name() -> None:
    cases = [case for scenario in Scenario for case in cases_of(scenario)]
    assert [case_number_in(case.prompt) for case in cases] == [case.number for case in cases]
    assert len({case.number for case in cases}) == len(cases)
    sizes = {case.name: len(case.content) for case in cases}
    assert (sizes["1 MiB + 1 byte"], sizes["16 MiB"], sizes["0 bytes"]) == (MIB + 1, 16 * MIB, 0)
    assert {size % 3 for name, size in sizes.items() if "MiB" in name} == {0, 1, 2}
