"""Checks of results: drift from the baseline, and defects."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.checks import ResultQuality, ScoreDrift, judge_quality
from doceval_pipeline.batches.results.score_drift import _rank_sum_p, judge_drift
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline_tests.conftest import Sample, evaluation_of

BatchOf = Callable[..., Sample]
# Different for every document, and the same again for the same document.
SCORE = "(60 + (document_id * 7919) % 31)"
FIRST_COLUMN = "connection_id = (SELECT min(connection_id) FROM llm_responses)"


def answered(batch: Sample, score: str = SCORE, status: str = "'S'") -> Sample:
    batch.stage()
    batch.knowledge(
        f"UPDATE llm_responses SET overall_score = {score}, status = {status}, "
        "response_text = 'about ' || document_id WHERE batch_id = :id"
    )
    poll(batch.databases)
    return batch


def again(batch: Sample, name: str, **other: Any) -> Sample:
    """A batch with the same configuration over the same documents."""
    located = evaluation_of([{"name": name, "folders": [str(batch.folder)], **other}])
    applied = apply_evaluation(batch.databases.doc_eval, located)
    return Sample(batch.databases, applied.numbers[name], name, batch.folder)


def drift(batch: Sample) -> ScoreDrift:
    return judge_drift(batch.databases, batch.id)


def test_a_first_batch_has_no_baseline(batch_of: BatchOf) -> None:
    found = drift(answered(batch_of(documents=1)))
    assert (found.baseline, found.drifted) == (None, [])
    assert found.sentence.startswith("no baseline: no earlier batch")


def test_documents_scored_in_both_batches_are_paired(batch_of: BatchOf) -> None:
    first = answered(batch_of(documents=12))
    same = drift(answered(again(first, "same")))
    assert (same.baseline, same.shared_documents, same.drifted) == (first.key, 12, [])
    assert [(c.pairs, c.change, c.p) for c in same.columns] == [(12, 0.0, 1.0)] * 4
    # Much smaller than the differences between documents.
    moved = drift(answered(again(first, "moved"), f"{SCORE} - CASE WHEN {FIRST_COLUMN} THEN 3 ELSE 0 END"))
    assert [(c.connection, c.change) for c in moved.drifted] == [("model-0", -3.0)] * 2
    assert moved.sentence == "2 of 4 columns scored differently than in " + str(moved.baseline)
    assert moved.numbers()["largest_change"] == -3.0
    back = drift(answered(again(first, "back")))
    assert len(back.drifted) == 2, "held against the newest one before it"


def test_a_tiny_change_is_not_drift(batch_of: BatchOf) -> None:
    first = answered(batch_of(documents=12))
    found = drift(answered(again(first, "a little"), f"{SCORE} + 0.9"))
    assert all(column.p is not None and column.p < 0.05 for column in found.columns)
    assert found.drifted == []


def test_other_documents_are_compared_as_a_whole(batch_of: BatchOf) -> None:
    answered(batch_of(documents=12, name="a"))
    same = drift(answered(batch_of(documents=12, name="b")))
    assert [column.pairs for column in same.columns] == [0] * 4
    assert (same.shared_documents, same.drifted) == (0, [])
    moved = drift(answered(batch_of(documents=12, name="c"), f"{SCORE} - 40"))
    assert len(moved.drifted) == 4


def test_a_few_other_documents_prove_little(batch_of: BatchOf) -> None:
    answered(batch_of(documents=3, connections=1, prompts=1, name="a"), "50")
    found = drift(answered(batch_of(documents=3, connections=1, prompts=1, name="b"), "60"))
    # Two of the 20 ways to split six scores in halves are as unequal.
    assert [(column.change, column.p) for column in found.columns] == [(10.0, 0.1)]
    found = drift(answered(batch_of(documents=1, connections=1, prompts=1, name="c"), "10"))
    assert [(column.change, column.p) for column in found.columns] == [(-50.0, None)]


def test_p_allows_for_all_columns(batch_of: BatchOf) -> None:
    # Six pairs that all change in the same direction have p = 1/32, corrected for four columns 1/8.
    first = answered(batch_of(documents=6))
    found = drift(answered(again(first, "moved"), f"{SCORE} + 5"))
    assert [column.p for column in found.columns] == [0.125] * 4
    assert found.drifted == []


def test_a_baseline_has_the_same_prompts_and_models_and_is_completed(batch_of: BatchOf) -> None:
    first = answered(batch_of(documents=6))
    assert drift(answered(again(first, "fewer", prompts=["prompt-0"]))).baseline is None
    first.doc_eval("UPDATE prompts SET prompt_text = 'Another question?' WHERE name = 'prompt-0'")
    other = Sample(first.databases, again(first, "edited").id, "edited", first.folder)
    first.doc_eval("UPDATE prompts SET prompt_text = 'Another question?' WHERE name = 'prompt-0'")
    assert drift(answered(other)).baseline is None
    failed = answered(again(first, "failed"), status="'F'")
    assert failed.status() == "FAILED"
    last = drift(answered(again(first, "last")))
    assert last.baseline == first.key, "a batch without any result is none to compare with"


def test_a_column_without_scores_is_counted_as_untested(batch_of: BatchOf) -> None:
    first = answered(batch_of(documents=6))
    status = f"CASE WHEN {FIRST_COLUMN} THEN 'F' ELSE 'S' END"
    found = drift(answered(again(first, "half"), status=status))
    assert [(c.before, c.now, c.p) for c in found.columns if c.p is None] == [(6, 0, None)] * 2
    assert found.sentence.endswith("; 2 more have too few scores to compare")
    assert found.numbers()["columns_compared"] == 2


def judged(batch: Sample) -> ResultQuality:
    return judge_quality(batch.databases, batch.id)


def test_valid_results_have_no_defects(batch_of: BatchOf) -> None:
    batch = answered(batch_of(documents=3), status="CASE WHEN id % 2 = 0 THEN 'F' ELSE 'S' END")
    batch.knowledge("UPDATE llm_responses SET error_message = 'no' WHERE status = 'F'")
    assert judged(batch).is_sound
    assert judged(batch).sentence == "no defects in 6 successful evaluations"


@pytest.mark.parametrize(
    ("wrong", "name", "said"),
    [
        (r"response_text = E' \n\t'", "cells_empty", "1 empty responses"),
        (
            "response_json = '{\"score\": 1'",
            "cells_not_json",
            "1 response_json values that are not valid JSON",
        ),
        ("overall_score = NULL", "cells_without_score", "1 successful evaluations without a score"),
        ("overall_score = 100.5", "cells_out_of_range", "1 scores out of range"),
    ],
)
def test_defects_are_counted(batch_of: BatchOf, wrong: str, name: str, said: str) -> None:
    batch = answered(batch_of(documents=3))
    batch.knowledge("ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_overall_score_check")
    try:
        batch.plant(f"UPDATE llm_responses SET {wrong} WHERE id = (SELECT min(id) FROM llm_responses)")
        found = judged(batch)
    finally:
        batch.knowledge("UPDATE llm_responses SET overall_score = NULL WHERE overall_score > 100")
        batch.plant("DELETE FROM llm_responses WHERE overall_score > 100")
        batch.knowledge(
            "ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_overall_score_check "
            "CHECK (overall_score BETWEEN 0 AND 100)"
        )
    assert not found.is_sound
    assert {key: count for key, count in found.numbers().items() if count} == {
        "cells_succeeded": 12,
        name: 1,
    }
    assert found.sentence == said


def test_identical_responses_are_a_defect_from_ten_documents_on(
    batch_of: BatchOf,
) -> None:
    for documents, name in ((9, "few"), (10, "enough")):
        batch = answered(batch_of(documents=documents, name=name))
        batch.plant(f"UPDATE llm_responses SET response_text = 'As an AI' WHERE {FIRST_COLUMN}")
        assert judged(batch).numbers()["columns_stuck"] == (2 if documents == 10 else 0)
    batch.plant(
        "UPDATE llm_responses SET response_text = 'no' WHERE document_id = (SELECT max(id) FROM docs)"
    )
    assert judged(batch).is_sound


@pytest.mark.parametrize("n", [2, 100, 5_000])
def test_scores_that_are_all_equal_have_not_drifted(n: int) -> None:
    assert _rank_sum_p(np.full(n, 70.1), np.full(100 * n, 70.1)) == 1.0


def is_json(databases: Databases, given: str) -> bool:
    with databases.knowledge.connect() as connection:
        return bool(connection.scalar(text("SELECT is_json(:given)"), {"given": given}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30)
@given(value=VALUES)
def test_valid_json_is_accepted(value: Any, databases_once: Databases) -> None:
    written = json.dumps(value)
    assert is_json(databases_once, written)
    assert not is_json(databases_once, written + ",")
    if written[0] in '[{"':
        assert not is_json(databases_once, written[:-1])


@pytest.mark.parametrize(
    "given", ["NaN", "{'a': 1}", "```json\n{}\n```", "[" * 200_000, '"\\u00"', "{", "\x01"]
)
def test_invalid_json_is_rejected(databases_once: Databases, given: str) -> None:
    assert not is_json(databases_once, given)


@pytest.fixture(scope="module")
def databases_once(settings: Any) -> Databases:
    """The databases as they are: nothing is written."""
    from doceval_pipeline.batches.databases import open_databases

    return open_databases(settings)
