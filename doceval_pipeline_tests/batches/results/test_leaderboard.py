"""The leaderboard equals the sums over the rows of all completed batches."""

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.leaderboard import NOTHING, gather_leaderboard, leaderboard_digest
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import cancel
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.statistics.inference import estimate_of_sums
from doceval_pipeline_tests.conftest import Sample, evaluation_of

BatchOf = Callable[..., Sample]
# Every outcome, scores with many digits and of 0, cells that report nothing.
ANSWER = """
    UPDATE llm_responses SET
        status = CASE WHEN id % 7 = 0 THEN 'F' ELSE 'S' END,
        overall_score = CASE WHEN id % 5 = 0 THEN NULL WHEN id % 11 = 0 THEN 0
                             ELSE (hashint8(id) & 1023) / 10.3 END,
        input_tokens = CASE WHEN id % 3 = 0 THEN NULL ELSE id END,
        time_taken_seconds = CASE WHEN id % 9 = 0 THEN NULL ELSE id / 7.0 END,
        task_id = CASE WHEN id % 3 = 0 THEN 'simulated-1' END
    WHERE batch_id = :id
"""


def answered(batch: Sample, statement: str = ANSWER) -> Sample:
    batch.stage()
    batch.knowledge(statement)
    poll(batch.databases)
    write_report(batch.databases, batch.id)
    return batch


def over_the_same_documents(batch: Sample, name: str) -> Sample:
    """A batch that selects the folder of another one."""
    located = evaluation_of([{"name": name, "folders": [str(batch.folder)]}])
    applied = apply_evaluation(batch.databases.doc_eval, located)
    return Sample(batch.databases, applied.numbers[name], name, batch.folder)


def test_each_row_is_the_sum_of_its_cells_and_documents_in_two_batches_are_not_independent(
    batch_of: BatchOf,
) -> None:
    first = answered(batch_of(documents=12))
    second = answered(over_the_same_documents(first, "again"))
    third = answered(batch_of(documents=5, name="others"))
    board = gather_leaderboard(first.databases)
    assert (board.batches, board.batches_left_out, len(board.rows)) == (3, 0, 4)
    cells = first.knowledge(
        "SELECT connection_id, prompt_id, document_id, status, overall_score, input_tokens, "
        "time_taken_seconds, task_id FROM llm_responses"
    )
    names = dict(first.doc_eval("SELECT id, name FROM connections"))
    prompts = dict(first.doc_eval("SELECT id, name FROM prompts"))
    for row in board.rows:
        own = [c for c in cells if (names[c[0]], prompts[c[1]]) == (row.connection, row.prompt)]
        assert (row.batches, row.documents, row.cells) == (3, 17, len(own))
        scored = [c for c in own if c.status == "S" and c.overall_score is not None]
        mean = sum(c.overall_score for c in scored) / len(scored)
        deviations: dict[int, float] = {}
        for c in scored:
            deviations[c.document_id] = deviations.get(c.document_id, 0.0) + c.overall_score - mean
        spread = sum(deviation**2 for deviation in deviations.values())
        expected = estimate_of_sums(len(scored), mean, len(deviations), spread)
        assert row.scores is not None
        assert row.scores.n == expected.n == len(scored)
        for name in ("mean", "low", "high"):
            assert getattr(row.scores, name) == pytest.approx(getattr(expected, name), abs=1e-8)
        assert row.failed == sum(c.status == "F" for c in own)
        assert row.simulated == sum(c.task_id is not None for c in own)
        assert row.input_tokens == sum(c.input_tokens or 0 for c in own)
        assert row.output_tokens is None
        assert row.median_seconds == pytest.approx(
            median([c.time_taken_seconds for c in own if c.time_taken_seconds is not None])
        )
    means = [row.scores.mean for row in board.rows if row.scores]
    assert means == sorted(means, reverse=True)
    assert second.key != third.key


def test_scores_that_are_all_equal_have_a_mean_and_no_interval(batch_of: BatchOf) -> None:
    batch = answered(batch_of(documents=3), "UPDATE llm_responses SET status = 'S', overall_score = 70.1")
    for row in gather_leaderboard(batch.databases).rows:
        assert row.scores is not None
        assert (row.scores.n, row.scores.mean, row.scores.low) == (3, 70.1, None)


def test_a_batch_whose_cells_all_failed_counts_and_ones_that_are_open_cancelled_or_archived_do_not(
    batch_of: BatchOf,
) -> None:
    from doceval_pipeline.batches.archiving.archive import archive

    failed = answered(batch_of(documents=1, name="a"), "UPDATE llm_responses SET status = 'F'")
    batch_of(documents=1, name="b").stage()
    cancelled = batch_of(documents=1, name="c")
    cancelled.stage()
    cancel(cancelled.databases, cancelled.id)
    poll(cancelled.databases)
    write_report(cancelled.databases, cancelled.id)
    archived = answered(batch_of(documents=1, name="d"))
    archive(archived.databases, archived.id, lambda *_: None, lambda *_: None)
    board = gather_leaderboard(failed.databases)
    assert (board.batches, board.batches_left_out) == (1, 3)
    assert [(row.cells, row.failed, row.failed_share, row.scores) for row in board.rows] == [
        (1, 1, 1.0, None)
    ] * 4


def digest_of(batch: Sample) -> str:
    with batch.databases.doc_eval.connect() as connection:
        return leaderboard_digest(connection)


def test_the_digest_changes_with_each_report_and_with_nothing_else(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    found: list[Any] = [digest_of(batch)]
    batch.stage()
    batch.knowledge(ANSWER)
    poll(batch.databases)
    found.append(digest_of(batch))
    write_report(batch.databases, batch.id)
    found += [digest_of(batch), gather_leaderboard(batch.databases).digest]
    assert found[:2] == [NOTHING] * 2, "there is no report yet"
    assert found[2] == found[3] != NOTHING
