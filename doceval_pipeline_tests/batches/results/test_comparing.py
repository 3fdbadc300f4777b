"""Comparisons of batches, connections and prompts, read from real databases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results import comparing
from doceval_pipeline.batches.results.comparing import (
    Dimension,
    compare_batches,
    compare_in_batch,
    write_comparison,
)
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import Located, key_path, locate
from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.errors import BatchStateError, ComparisonError, FileError, UnknownBatch
from doceval_pipeline.knowledge.scores import read_current_results
from doceval_pipeline.reports.comparison import Comparison
from doceval_pipeline_tests.batches.archiving.archives import archive_batch, done
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

# 0 for the first document, and so on.
PLACE = "(SELECT count(*) FROM docs d WHERE d.id < r.document_id)"


def answer(batch: Sample, score: str, where: str = "true", status: str = "S") -> None:
    batch.knowledge(
        f"UPDATE llm_responses r SET status = :status, overall_score = {score} "
        f"WHERE batch_id = :id AND {where}",
        status=status,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight documents."""
    made = tmp_path / "documents"
    made.mkdir()
    for number in range(8):
        write_old(made / f"{number}.txt", f"document {number}")
    return made


@pytest.fixture
def pair(databases: Databases, folder: Path) -> list[Sample]:
    """Two staged batches, before and after, over the same documents, connections and prompts."""
    return [staged(databases, folder, name) for name in ("before", "after")]


def staged(databases: Databases, folder: Path, name: str, **choice: Any) -> Sample:
    located = evaluation_of([{"name": name, "folders": [str(folder)], **choice}])
    made = Sample(databases, apply_evaluation(databases.doc_eval, located).numbers[name], name, folder)
    made.stage()
    return made


def columns(found: Comparison) -> list[tuple[str | None, str | None]]:
    return [(column.connection, column.prompt) for column in found.columns]


def test_two_batches_are_compared_over_the_documents_and_columns_that_both_have(
    databases: Databases, folder: Path
) -> None:
    before = staged(databases, folder, "before")
    (folder / "0.txt").unlink()
    write_old(folder / "new.txt", "a new document")
    after = staged(databases, folder, "after", prompts=["prompt-1"])
    answer(before, "40")
    answer(after, f"CASE WHEN {PLACE} = 3 THEN 0 ELSE 55 END")
    found = compare_batches(databases, "before", after.key, 50.0)
    assert found.documents == 7
    assert (found.first.name, found.first.documents, found.second.documents) == ("before", 1, 1)
    assert columns(found) == [("model-0", "prompt-1"), ("model-1", "prompt-1")]
    assert found.first.columns == (("model-0", "prompt-0"), ("model-1", "prompt-0"))
    assert (found.second.columns, found.pairs, found.left_out) == ((), 14, 0)
    assert (found.overall.rose, found.overall.fell) == (6, 1)
    assert (found.overall.flipped_up, found.overall.flipped_down) == (6, 0)
    assert (found.overall.flips[0].document, found.overall.flips[0].after) == ("3.txt", 0)
    assert [column.first_mean for column in found.columns] == [40, 40]
    assert found.simulated == 0


def test_missing_scores_are_counted_by_side_and_reason(pair: list[Sample], databases: Databases) -> None:
    before, after = pair
    answer(before, f"CASE WHEN {PLACE} <> 1 THEN 50 END")
    answer(after, "0", f"{PLACE} BETWEEN 1 AND 5")
    answer(after, "NULL", f"{PLACE} = 0", status="F")
    after.plant(f"DELETE FROM llm_responses r WHERE batch_id = {after.id} AND {PLACE} = 2")
    found = compare_batches(databases, "before", "after", 50.0)
    for column in found.columns:
        assert column.first_cells == ScoreStateCounts(scored=6, without_score=1, failed=0, open=0, absent=0)
        assert column.second_cells == ScoreStateCounts(scored=4, without_score=0, failed=1, open=2, absent=0)
        assert column.score_changes is not None
        assert (column.score_changes.difference.n, column.score_changes.net) == (3, -50)
    # The document without a row in the second batch is not shared.
    assert (found.documents, found.first.documents, found.left_out) == (7, 1, 28 - 12)


def test_columns_with_different_ids_are_matched_by_name(databases: Databases, folder: Path) -> None:
    before = staged(databases, folder, "before")
    answer(before, "40")
    # As if a prompt had been removed by hand and created again, with another id and text.
    before.doc_eval("UPDATE prompts SET name = name || ' (old)'")
    after = staged(databases, folder, "after")
    answer(after, "60")
    found = compare_batches(databases, "before", "after", 50.0)
    assert columns(found) == [(f"model-{c}", f"prompt-{p}") for c in (0, 1) for p in (0, 1)]
    assert found.overall.net == 20
    assert {column.changed for column in found.columns} == {()}


def test_changed_settings_under_the_same_name_are_shown(databases: Databases, folder: Path) -> None:
    before = staged(databases, folder, "before")
    content = {
        "connections": [
            {"name": "model-0", "provider": "simulation", "model": "newer", "api_key_env": "SOME_KEY"},
            {"name": "model-1", "provider": "simulation", "model": "m1", "api_key_env": "SOME_KEY"},
        ],
        "prompts": [{"name": "prompt-0", "text": "Another?"}, {"name": "prompt-1", "text": "Question 1?"}],
        "batches": [
            {
                "name": "after",
                "folders": [str(folder)],
                "connections": ["model-0", "model-1"],
                "prompts": ["prompt-0", "prompt-1"],
            }
        ],
    }
    applied = apply_evaluation(databases.doc_eval, located(content))
    after = Sample(databases, applied.numbers["after"], "after", folder)
    after.stage()
    for batch in (before, after):
        answer(batch, "40")
    found = compare_batches(databases, "before", "after", 50.0)
    assert {(c.connection, c.prompt): c.changed for c in found.columns} == {
        ("model-0", "prompt-0"): ("prompt text", "connection"),
        ("model-0", "prompt-1"): ("connection",),
        ("model-1", "prompt-0"): ("prompt text",),
        ("model-1", "prompt-1"): (),
    }


def located(content: dict[str, Any]) -> Located:
    return locate(content, None, key_path)


@pytest.mark.parametrize(
    ("kind", "names", "expected"),
    [
        (Dimension.CONNECTION, ("model-0", "model-1"), [(None, "prompt-0"), (None, "prompt-1")]),
        (Dimension.PROMPT, ("prompt-1", "prompt-0"), [("model-0", None), ("model-1", None)]),
    ],
)
def test_connections_and_prompts_of_a_batch_are_compared(
    batch_of: Callable[..., Sample],
    kind: Dimension,
    names: tuple[str, str],
    expected: list[tuple[str | None, str | None]],
) -> None:
    batch = batch_of()
    batch.stage()
    (least,) = batch.knowledge("SELECT min(connection_id), min(prompt_id) FROM llm_responses")
    answer(batch, f"40 + 10 * (r.connection_id - {least[0]}) - 20 * (r.prompt_id - {least[1]})")
    found = compare_in_batch(batch.databases, "sample", kind, names, 50.0)
    assert columns(found) == expected
    assert (found.first.name, found.second.name) == names
    assert found.overall.net == (10 if kind is Dimension.CONNECTION else 20)
    assert (found.documents, found.left_out, found.first.documents) == (8, 0, 0)


def test_what_each_side_used_is_read_with_the_prices_of_its_batch(
    pair: list[Sample], databases: Databases
) -> None:
    before, after = pair
    for batch, tokens in ((before, 1_000), (after, 4_000)):
        answer(batch, f"40, input_tokens = {tokens}, output_tokens = 0, time_taken_seconds = 3")
    before.doc_eval(
        """UPDATE connections SET prices = '{"input_per_million": 2, "output_per_million": 0}'
           WHERE name = 'model-0'"""
    )
    # The prices of its completion, although they have changed since.
    before.doc_eval(
        """UPDATE batches SET prices_at_completion = jsonb_build_object(
               (SELECT id FROM connections WHERE name = 'model-0')::text,
               '{"input_per_million": 1, "output_per_million": 0}'::jsonb)
           WHERE id = :id"""
    )
    found = compare_batches(databases, "before", "after")
    for column in found.columns:
        sides = column.first_usage, column.second_usage
        assert [(side.usage.cells, side.reused, side.failed) for side in sides] == [(8, 0, 0), (8, 0, 0)]
        assert [side.usage.input_tokens and side.usage.input_tokens.value for side in sides] == [
            8_000,
            32_000,
        ]
        assert [side.usage.seconds and side.usage.seconds.p50 for side in sides] == [3, 3]
        costs = [side.usage.cost_per_document for side in sides]
        assert costs == ([0.001, 0.008] if column.connection == "model-0" else [None, None])
    assert (
        "the cost of 1,000 documents rose from 1.00 USD to 8.00 USD, about 8 times as much" in found.verdict
    )
    assert (found.dimension, found.model_word) == (Dimension.TIME, "model")


def test_a_column_has_the_threshold_of_its_prompt_unless_another_is_given(
    batch_of: Callable[..., Sample],
) -> None:
    batch = batch_of()
    batch.stage()
    answer(batch, "40")
    batch.doc_eval("UPDATE prompts SET threshold = 70 WHERE name = 'prompt-1'")
    models, prompts = ("model-0", "model-1"), ("prompt-0", "prompt-1")
    databases = batch.databases
    found = compare_in_batch(databases, "sample", Dimension.CONNECTION, models)
    assert thresholds(found) == [50, 70, 50]
    # Two prompts with different thresholds have none in common.
    assert thresholds(compare_in_batch(databases, "sample", Dimension.PROMPT, prompts)) == [50, 50, 50]
    batch.doc_eval("UPDATE prompts SET threshold = 70")
    assert thresholds(compare_in_batch(databases, "sample", Dimension.PROMPT, prompts)) == [70, 70, 70]
    assert thresholds(compare_in_batch(databases, "sample", Dimension.CONNECTION, models, 0.0)) == [0, 0, 0]


def thresholds(found: Comparison) -> list[float]:
    """Of the columns, and the one over all of them."""
    changes = [column.score_changes for column in found.columns if column.score_changes]
    return [each.threshold for each in [*changes, found.overall]]


def test_a_connection_is_called_a_model_if_no_other_leads_to_it(batch_of: Callable[..., Sample]) -> None:
    batch = batch_of()
    batch.doc_eval("UPDATE connections SET model_id = (SELECT min(model_id) FROM connections)")
    batch.stage()
    answer(batch, "40")
    found = compare_in_batch(batch.databases, "sample", Dimension.CONNECTION, ("model-0", "model-1"))
    assert found.model_word == "connection"


def test_versions_of_a_document_are_one_cluster(databases: Databases, folder: Path) -> None:
    before = staged(databases, folder, "before")
    for number in range(4):
        write_old(folder / f"{number}.txt", f"a new version of document {number}")
    both = staged(databases, folder, "after")
    (folder / "old").mkdir()
    for number in range(4):
        write_old(folder / "old" / f"{number}.txt", f"document {number}")
    together = staged(databases, folder, "together")
    for batch in (before, both, together):
        answer(batch, f"40 + {PLACE} + {PLACE} * (r.connection_id % 2)")
    found = compare_in_batch(databases, "together", Dimension.CONNECTION, ("model-0", "model-1"))
    assert found.documents == 12
    apart = compare_in_batch(databases, "before", Dimension.CONNECTION, ("model-0", "model-1"))
    changes = found.columns[0].score_changes, apart.columns[0].score_changes
    assert [each and each.difference.n for each in changes] == [12, 8]
    # Eight files: with twelve independent documents, all of one sign but one, p would be smaller.
    assert changes[0] is not None
    assert changes[0].difference.p is not None
    assert changes[0].difference.p >= 2 / 2**8


def test_files_of_several_folders_are_named_with_their_folder(databases: Databases, tmp_path: Path) -> None:
    folders = [tmp_path / "north", tmp_path / "south"]
    for place in folders:
        place.mkdir()
        write_old(place / "a.txt", f"of {place.name}")
    batch = staged(databases, folders[0], "both", folders=[str(place) for place in folders])
    answer(batch, "40 + r.connection_id % 2")
    found = compare_in_batch(databases, "both", Dimension.CONNECTION, ("model-0", "model-1"), 50.0)
    assert {flip.document for flip in found.overall.flips} == {"north/a.txt", "south/a.txt"}


def test_sides_that_share_nothing_are_rejected_in_one_line(
    databases: Databases, pair: list[Sample], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_old(elsewhere / "x.txt", "of another folder")
    other = staged(databases, elsewhere, "other")
    with pytest.raises(ComparisonError, match="before and other share no document"):
        compare_batches(databases, "before", "other", 50.0)
    with pytest.raises(ComparisonError, match=r"none has a score on both sides \(64 evaluations not done\)"):
        compare_batches(databases, "before", "after", 50.0)
    other.doc_eval("UPDATE prompts SET name = 'x' || name")
    with pytest.raises(ComparisonError, match="cannot be compared with itself: name two batches"):
        compare_batches(databases, "before", pair[0].key, 50.0)
    with pytest.raises(ComparisonError, match="prompt 'prompt-0' cannot be compared with itself"):
        compare_in_batch(databases, "before", Dimension.PROMPT, ("prompt-0", "prompt-0"), 50.0)
    with pytest.raises(ComparisonError, match=r"has no connection 'gpt': choose one of model-0, model-1"):
        compare_in_batch(databases, "before", Dimension.CONNECTION, ("model-0", "gpt"), 50.0)


def test_batches_without_a_shared_column_are_rejected(databases: Databases, folder: Path) -> None:
    staged(databases, folder, "before", prompts=["prompt-0"])
    staged(databases, folder, "after", prompts=["prompt-1"])
    with pytest.raises(ComparisonError, match="share no connection and prompt"):
        compare_batches(databases, "before", "after", 50.0)


def test_a_missing_unsealed_or_archived_batch_is_rejected(batch_of: Callable[..., Sample]) -> None:
    batch = batch_of(documents=1)
    databases = batch.databases
    with pytest.raises(UnknownBatch, match="batch 'nowhere' does not exist"):
        compare_batches(databases, "sample", "nowhere", 50.0)
    with pytest.raises(BatchStateError, match="no results to compare because it is SAVED: stage it first"):
        compare_in_batch(databases, "sample", Dimension.CONNECTION, ("model-0", "model-1"), 50.0)
    archive_batch(done(batch))
    with pytest.raises(BatchStateError, match="is archived: run doceval restore"):
        compare_in_batch(databases, "sample", Dimension.CONNECTION, ("model-0", "model-1"), 50.0)


def test_a_batch_archived_during_the_read_is_rejected(
    batch_of: Callable[..., Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = done(batch_of(documents=1))

    def archive_first(*arguments: Any) -> Any:
        archive_batch(batch)
        return read_current_results(*arguments)

    monkeypatch.setattr(comparing, "read_current_results", archive_first)
    with pytest.raises(BatchStateError, match="is archived: "):
        compare_in_batch(batch.databases, "sample", Dimension.CONNECTION, ("model-0", "model-1"), 50.0)


def test_a_page_that_cannot_be_written_is_said_to_be(
    pair: list[Sample], databases: Databases, folder: Path
) -> None:
    for batch in pair:
        answer(batch, "40")
    found = compare_batches(databases, "before", "after", 50.0)
    with pytest.raises(FileError, match="cannot be written"):
        write_comparison(found, folder / "0.txt" / "comparison.html")
