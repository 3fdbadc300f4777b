"""Whether a document arrived whole is seen however it is sent, and where it was cut."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.conformance.cases import KNOWN_CUT, MIB, Case, Trial, cases_of, number_in, text_of
from doceval_pipeline.conformance.document_match import Arrival, arrival_of


def sent(content: str) -> Any:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": content}]}]}


@given(st.binary(max_size=400), st.text(alphabet="abc: \n", max_size=20))
def test_base64_anywhere_in_a_text_is_found(content: bytes, before: str) -> None:
    case = Case(1, "any", content)
    encoded = base64.b64encode(content).decode()
    assert arrival_of(case, sent(f"{before},{encoded} ")).whole
    assert arrival_of(case, {"data": f"data:x/y;base64,{encoded}"}).whole


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400), st.text(max_size=20))
def test_text_anywhere_in_a_text_is_found(content: str, before: str) -> None:
    assert arrival_of(Case(1, "any", content.encode()), sent(f"{before}{content}")).whole


@given(st.integers(20, 3_999))
def test_a_cut_is_measured(length: int) -> None:
    case = Case(1, "cut", text_of(4_000, "cut"))
    assert arrival_of(case, sent(f"Read: {case.content[:length].decode()}")) == Arrival(False, length, "text")
    encoded = base64.b64encode(case.content)[: length // 4 * 4].decode()
    if len(encoded) >= 16:
        assert arrival_of(case, sent(f"{encoded} end")) == Arrival(False, len(encoded), "base64")


def test_the_known_cut_is_measured_to_the_character() -> None:
    case = Case(1, "large", text_of(MIB + 1, "large"))
    encoded = base64.b64encode(case.content)[:KNOWN_CUT].decode()
    assert arrival_of(case, sent(encoded)) == Arrival(False, KNOWN_CUT, "base64")


@pytest.mark.parametrize("request_", [None, [], "", {"a": 1}, sent("something else")])
def test_what_holds_nothing_of_the_document_says_so(request_: Any) -> None:
    case = Case(1, "some", text_of(100, "some"))
    assert arrival_of(case, request_) == Arrival(False)


def test_every_case_is_told_by_its_prompt_and_has_the_size_of_its_name() -> None:
    cases = [case for trial in Trial for case in cases_of(trial)]
    assert [number_in(case.prompt) for case in cases] == [case.number for case in cases]
    assert len({case.number for case in cases}) == len(cases)
    sizes = {case.name: len(case.content) for case in cases}
    assert (sizes["1 MiB + 1 byte"], sizes["16 MiB"], sizes["0 bytes"]) == (MIB + 1, 16 * MIB, 0)
    assert {size % 3 for name, size in sizes.items() if "MiB" in name} == {0, 1, 2}
