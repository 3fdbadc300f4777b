"""Rough figures before anything is known: ranges, never used as if they were measured."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging.planning import Plan, plan
from doceval_pipeline.batches.staging.reprocessing import Mode
from doceval_pipeline.batches.staging.rough_estimates import (
    Range,
    RoughBasis,
    RoughInput,
    document_tokens,
    rough_tokens,
)
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.domain.files import MeasuredDocument
from doceval_pipeline.domain.usage import Experience, Measure
from doceval_pipeline_tests.conftest import Sample, evaluation_of

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
TYPES = ("text/plain", "application/json", "application/pdf", DOCX, "image/png", "video/mp4", "", "odd")
PRICES = {"input_per_million": 2, "output_per_million": 10, "currency": "EUR"}
BatchOf = Callable[..., Sample]

documents = st.lists(
    st.builds(MeasuredDocument, st.integers(1, 10**9), st.sampled_from(TYPES)), min_size=1, max_size=20
)


def planned(batch: Sample, mode: Mode = Mode.missing) -> Plan:
    return plan(batch.databases, batch.id, mode, lambda *_: None)


def priced(batch: Sample, prices: dict[str, Any] | None) -> None:
    batch.doc_eval(
        "UPDATE connections SET prices = CAST(:prices AS jsonb)",
        prices=None if prices is None else json.dumps(prices),
    )


def finish(batch: Sample, tokens: str = "input_tokens = 100 + id % 7, output_tokens = 10 + id % 3") -> None:
    batch.knowledge(f"UPDATE llm_responses SET status = 'S', overall_score = 50, {tokens}")
    poll(batch.databases)


@given(found=documents)
@examples(deadline=None, derandomize=True, database=None)
def test_a_range_is_never_empty_and_grows_with_documents(found: list[MeasuredDocument]) -> None:
    tokens = document_tokens(found).tokens
    assert 0 < tokens.low < tokens.high
    more = document_tokens([*found, MeasuredDocument(100, "text/plain")]).tokens
    assert tokens.low < more.low
    assert tokens.high < more.high


@pytest.mark.parametrize(
    ("document", "low", "high"),
    [
        # A page of English has about 3,000 characters and 700 tokens.
        (MeasuredDocument(3_000, "text/plain"), 600, 1_500),
        (MeasuredDocument(30_000, "application/pdf"), 400, 9_000),
        (MeasuredDocument(15_000, DOCX), 100, 10_000),
        (MeasuredDocument(9_000_000, "image/jpeg"), 85, 1_600),
    ],
)
def test_each_kind_of_document_has_a_ratio_of_its_own(
    document: MeasuredDocument, low: float, high: float
) -> None:
    tokens = document_tokens([document])
    assert tokens.tokens == Range(low, high)
    assert tokens.vague == (document.content_type != "text/plain")


def test_a_few_small_pictures_do_not_make_a_batch_vague() -> None:
    texts = [MeasuredDocument(1_000_000, "text/plain")] * 5
    assert document_tokens([*texts, MeasuredDocument(5_000, "image/png")]).vague == 0


def test_the_text_of_each_prompt_is_sent_with_each_document() -> None:
    found = [MeasuredDocument(1_000, "text/plain")] * 3
    given_input = RoughInput(3, document_tokens(found), ["x" * 1_000], {})
    short = rough_tokens(1, 3, 3_000, replace(given_input, prompts=["x"]))
    long = rough_tokens(1, 3, 3_000, given_input)
    assert long.input_tokens.low - short.input_tokens.low == pytest.approx(3 * 999 / 5)
    assert long.output_tokens == Range(150, 1_500)
    half = rough_tokens(1, 3, 3_000, replace(given_input, prompts=["x" * 1_000] * 2))
    assert half.input_tokens.high == pytest.approx(long.input_tokens.high), "half of the evaluations are left"


def test_what_other_connections_used_comes_before_sizes() -> None:
    found = [MeasuredDocument(1_000, "text/plain")] * 4
    experience = Experience(10, 10_000, 1e7, 5_000, 2_500_000, 5e6, 500)
    others = {(2, Measure.INPUT_TOKENS): experience}
    rough = rough_tokens(1, 4, 4_000, RoughInput(4, document_tokens(found), ["Good?"], others))
    assert rough.basis is RoughBasis.OTHER_CONNECTIONS
    assert (rough.input_tokens.low, rough.input_tokens.high) == pytest.approx((2_000 / 1.5, 2_000 * 1.5))
    own = rough_tokens(2, 4, 4_000, RoughInput(4, document_tokens(found), ["Good?"], others))
    assert own.basis is RoughBasis.SIZES


def test_a_first_plan_is_labelled_rough_and_its_cost_stays_unknown(batch_of: BatchOf) -> None:
    batch = batch_of(documents=4, connections=1, prompts=1)
    priced(batch, PRICES)
    (found,) = planned(batch).as_json()["estimates"]
    assert (found["basis"], found["rough_basis"], found["experience"]) == ("rough", "sizes", 0)
    assert found["input_tokens"] is found["output_tokens"] is found["cost"] is None
    low, high = found["rough_cost"]
    tokens_in, tokens_out = found["rough_input_tokens"], found["rough_output_tokens"]
    assert low == pytest.approx(tokens_in[0] * 2e-6 + tokens_out[0] * 1e-5, rel=1e-3)
    assert high == pytest.approx(tokens_in[1] * 2e-6 + tokens_out[1] * 1e-5, rel=1e-3)
    assert 0 < low < high


@pytest.mark.parametrize("prices", [None, {"input_per_million": 2}, {"output_per_million": 2}])
def test_an_unknown_price_gives_no_cost_at_all(batch_of: BatchOf, prices: dict[str, Any] | None) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    priced(batch, prices)
    (found,) = planned(batch).as_json()["estimates"]
    assert found["rough_cost"] is found["cost"] is None
    assert found["rough_input_tokens"] is not None


def test_a_free_model_costs_nothing_and_that_is_known(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    priced(batch, {"input_per_million": 0, "output_per_million": 0})
    (found,) = planned(batch).as_json()["estimates"]
    assert (found["cost"], found["rough_cost"]) == ([0, 0, 0], None)


def test_a_rough_cost_holds_no_batch_and_releases_none(batch_of: BatchOf) -> None:
    batch = batch_of(documents=4, connections=1, prompts=1)
    priced(batch, PRICES)
    batch.doc_eval("UPDATE batches SET max_cost = 1e9")
    held = planned(batch).held
    assert held is not None
    assert "cannot be checked" in held
    assert "fewer than three evaluations" in held


def test_results_replace_rough_figures(batch_of: BatchOf) -> None:
    batch = batch_of(documents=4, connections=1, prompts=1)
    priced(batch, PRICES)
    batch.stage()
    finish(batch)
    (found,) = planned(batch, Mode.all).as_json()["estimates"]
    assert found["basis"] == "experience"
    assert len(found["cost"]) == 3
    rough = {key for key, value in found.items() if key.startswith("rough_") and value is not None}
    assert not rough


def test_results_without_tokens_leave_the_rough_figure(batch_of: BatchOf) -> None:
    batch = batch_of(documents=4, connections=1, prompts=1)
    priced(batch, PRICES)
    batch.stage()
    finish(batch, "output_tokens = 10, time_taken_seconds = 1")
    (found,) = planned(batch, Mode.all).as_json()["estimates"]
    assert (found["basis"], found["experience"]) == ("rough", 4)
    assert found["rough_output_tokens"] == [40, 40], "what is known is not rough"
    assert found["cost"] is None


def test_a_real_connection_teaches_another_one_and_a_simulated_one_does_not(batch_of: BatchOf) -> None:
    batch = batch_of(documents=4, connections=1, prompts=1)
    batch.stage()
    finish(batch)
    chosen = {"connections": ["model-1"], "prompts": ["prompt-0"]}
    located = evaluation_of([{"name": "second", "folders": [str(batch.folder)], **chosen}], 2, 1)
    number = apply_evaluation(batch.databases.doc_eval, located).numbers["second"]
    second = Sample(batch.databases, number, "second", batch.folder)
    (found,) = planned(second).as_json()["estimates"]
    assert found["rough_basis"] == "sizes"
    batch.doc_eval("UPDATE llm_providers SET provider_type = 'openai'")
    (found,) = planned(second).as_json()["estimates"]
    assert found["rough_basis"] == "other connections"
    low, high = found["rough_input_tokens"]
    assert low <= 4 * 100
    assert high >= 4 * 106
