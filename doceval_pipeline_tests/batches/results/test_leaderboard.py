"""The leaderboard equals the sums over the rows of all completed batches."""

import json
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

import pytest
from scipy.stats import ttest_1samp
from sqlalchemy import Connection

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results import leaderboard
from doceval_pipeline.batches.results.leaderboard import (
    NOTHING,
    gather_leaderboard,
    leaderboard_digest,
    write_leaderboard,
)
from doceval_pipeline.batches.results.report_files import is_page_of_leaderboard
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import cancel
from doceval_pipeline.doc_eval.baselines import finished_batches
from doceval_pipeline.doc_eval.clusters import document_clusters
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.leaderboard import LeaderboardRow
from doceval_pipeline.statistics.inference import corrected, estimate_of_sums
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

BatchOf = Callable[..., Sample]
# Every outcome, scores with many digits and of 0, cells that report nothing.
EACH_SCORED = """
    UPDATE llm_responses SET status = 'S', overall_score = (hashint8(id) & 1023) / 10.3 WHERE batch_id = :id
"""
# Any two models share documents, real and simulated ones, and not all of them.
SHARED = """
    UPDATE llm_responses SET status = CASE WHEN hashint8(id * 3) % 6 = 0 THEN 'F' ELSE 'S' END,
        overall_score = (hashint8(id) & 1023) / 10.3,
        task_id = CASE WHEN hashint8(id * 7) % 2 = 0 THEN 'simulated-1' END
    WHERE batch_id = :id
"""
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
    """A batch that selects the folder, the connections and the prompts of another one."""
    counts = [
        len(batch.doc_eval(f"SELECT 1 FROM batch_{kind} WHERE batch_id = :id"))
        for kind in ("connections", "prompts")
    ]
    located = evaluation_of([{"name": name, "folders": [str(batch.folder)]}], *counts)
    applied = apply_evaluation(batch.databases.doc_eval, located)
    return Sample(batch.databases, applied.numbers[name], name, batch.folder)


def of_sums(scores: Sequence[float], clusters: Sequence[int]) -> Estimate:
    """The mean of scores with the interval of sums over clusters."""
    mean = fmean(scores)
    deviations: dict[int, float] = {}
    for score, cluster in zip(scores, clusters, strict=True):
        deviations[cluster] = deviations.get(cluster, 0.0) + score - mean
    return estimate_of_sums(len(scores), mean, len(deviations), sum(d**2 for d in deviations.values()))


def test_each_row_is_the_sum_of_its_cells_and_documents_in_two_batches_are_not_independent(
    batch_of: BatchOf,
) -> None:
    first = answered(batch_of(documents=12))
    second = answered(over_the_same_documents(first, "again"))
    third = answered(batch_of(documents=5, name="others"))
    board = gather_leaderboard(first.databases)
    assert (board.batches, board.batches_left_out, len(board.rows)) == (3, 0, 8)
    assert [(each.prompt, each.is_simulated) for each in board.boards] == [
        ("prompt-0", False),
        ("prompt-1", False),
        ("prompt-0", True),
        ("prompt-1", True),
    ]
    cells = first.knowledge(
        "SELECT connection_id, prompt_id, document_id, status, overall_score, input_tokens, "
        "time_taken_seconds, task_id, batch_id FROM llm_responses"
    )
    for row in board.rows:
        own = [
            c
            for c in cells
            if (c[0], c[1], c.task_id is not None) == (row.connection_id, row.prompt_id, row.is_simulated)
        ]
        assert (row.batches, row.documents) == (len({c.batch_id for c in own}), len({c[2] for c in own}))
        assert (row.cells, row.simulated) == (len(own), len(own) if row.is_simulated else 0)
        scored = [c for c in own if c.status == "S" and c.overall_score is not None]
        expected = of_sums([c.overall_score for c in scored], [c.document_id for c in scored])
        assert row.scores is not None
        assert row.scores.n == expected.n == len(scored)
        for name in ("mean", "low", "high"):
            assert getattr(row.scores, name) == pytest.approx(getattr(expected, name), abs=1e-8)
        assert row.failed == sum(c.status == "F" for c in own)
        assert row.failed_documents == len({c[2] for c in own if c.status == "F"})
        assert row.input_tokens == (sum(c.input_tokens or 0 for c in own) or None)
        assert row.output_tokens is None
        assert row.median_seconds == pytest.approx(
            median([c.time_taken_seconds for c in own if c.time_taken_seconds is not None])
        )
    for each in board.boards:
        means = [row.scores.mean for row in each.rows if row.scores]
        assert means == sorted(means, reverse=True)
    assert second.key != third.key


def scores_by_document(batch: Sample, row: LeaderboardRow) -> dict[int, float]:
    rows = batch.knowledge(
        "SELECT document_id, avg(overall_score) AS score FROM llm_responses WHERE status = 'S' "
        "AND connection_id = :connection AND prompt_id = :prompt AND (task_id IS NOT NULL) = :simulated "
        "AND overall_score IS NOT NULL GROUP BY 1",
        connection=row.connection_id,
        prompt=row.prompt_id,
        simulated=row.is_simulated,
    )
    return {found.document_id: found.score for found in rows}


def test_models_are_compared_over_the_documents_that_both_scored_and_each_p_is_corrected_for_all(
    batch_of: BatchOf,
) -> None:
    batch = answered(batch_of(documents=30, connections=4), SHARED)
    answered(over_the_same_documents(batch, "again"), SHARED)
    boards = gather_leaderboard(batch.databases).boards
    raw, corrected_p = [], []
    for board in boards:
        leader, second, *others = board.rows
        assert len(others) == 2
        assert (leader.against, second.against) == (second.connection_id, leader.connection_id)
        for row in (second, *others):
            ours, theirs = scores_by_document(batch, row), scores_by_document(batch, leader)
            both = sorted(ours.keys() & theirs.keys())
            differences = [ours[document] - theirs[document] for document in both]
            test = ttest_1samp(differences, 0)
            low, high = test.confidence_interval()
            assert row.difference is not None
            assert row.difference.n == len(both)
            assert row.difference.mean == pytest.approx(fmean(differences))
            assert (row.difference.low, row.difference.high) == pytest.approx((low, high))
            raw.append(float(test.pvalue))
            corrected_p.append(row.difference.p)
        assert leader.difference is not None
        assert second.difference is not None
        assert leader.difference.mean == -second.difference.mean
        assert leader.difference.p == second.difference.p
    expected = [p.p for p in corrected([Difference(2, 0.0, None, None, p, None) for p in raw])]
    assert len(raw) == 12
    assert corrected_p == pytest.approx(expected)


def test_versions_of_a_document_are_one_cluster_in_intervals_and_differences(batch_of: BatchOf) -> None:
    batch = answered(batch_of(documents=8, prompts=1), EACH_SCORED)
    before = gather_leaderboard(batch.databases).boards[0]
    for path in batch.folder.iterdir():
        write_old(path, f"another version of {path.name}")
    answered(over_the_same_documents(batch, "new versions"), EACH_SCORED)
    board = gather_leaderboard(batch.databases).boards[0]
    cells = batch.knowledge("SELECT batch_id, connection_id, document_id, overall_score FROM llm_responses")
    with batch.databases.doc_eval.connect() as connection:
        clusters = document_clusters(connection, {cell.batch_id for cell in cells})
    assert len(clusters) == 16
    for row in board.rows:
        own = [cell for cell in cells if cell.connection_id == row.connection_id]
        expected = of_sums([c.overall_score for c in own], [clusters[c.document_id] for c in own])
        assert row.scores is not None
        assert (row.scores.low, row.scores.high) == pytest.approx((expected.low, expected.high))
        assert (row.scored_documents, row.scored_clusters) == (16, 8)
    assert board.rows[1].pairs is not None
    assert (board.rows[1].pairs.documents, board.rows[1].pairs.clusters) == (16, 8)
    assert before.rows[1].pairs is not None
    assert (before.rows[1].pairs.documents, before.rows[1].pairs.clusters) == (8, 8)


def test_a_model_with_real_and_simulated_results_has_a_row_on_two_boards_that_counts_only_its_kind(
    batch_of: BatchOf,
) -> None:
    batch = answered(
        batch_of(documents=4, prompts=1, connections=1),
        "UPDATE llm_responses SET status = 'S', overall_score = 90, input_tokens = 7, "
        "task_id = 'simulated-x'",
    )
    answered(
        over_the_same_documents(batch, "real"),
        "UPDATE llm_responses SET status = 'S', overall_score = 40, input_tokens = 5 WHERE batch_id = :id",
    )
    real, simulated = gather_leaderboard(batch.databases).boards
    assert (real.is_simulated, simulated.is_simulated) == (False, True)
    ((mine,), (other,)) = (real.rows, simulated.rows)
    assert (mine.connection_id, mine.mean, mine.cells, mine.input_tokens) == (
        other.connection_id,
        40.0,
        4,
        20,
    )
    assert (other.mean, other.cells, other.input_tokens, other.batches) == (90.0, 4, 28, 1)


def test_a_row_costs_what_each_of_its_batches_cost_and_two_currencies_are_not_added(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=2, prompts=1)
    priced = (
        "UPDATE llm_responses SET status = 'S', overall_score = 40, input_tokens = 1000000, output_tokens = 1"
    )
    answered(batch, priced)
    later = answered(over_the_same_documents(batch, "later"), f"{priced} WHERE batch_id = :id")
    for each, currency, first in ((batch, "EUR", 2.0), (later, "USD", 3.0)):
        prices = {"input_per_million": first, "output_per_million": 0, "currency": currency}
        ids = [row.id for row in each.doc_eval("SELECT id FROM connections ORDER BY id")]
        # The second connection is priced in the first batch only.
        known = {str(id_): prices for id_ in (ids if each is batch else ids[:1])}
        each.doc_eval(
            "UPDATE batches SET prices_at_completion = CAST(:prices AS jsonb) WHERE id = :id",
            prices=json.dumps(known),
        )
    rows = {row.connection: row for row in gather_leaderboard(batch.databases).rows}
    costs = [(cost.amount, cost.currency, cost.cells, cost.unpriced) for cost in rows["model-0"].costs]
    assert costs == [(4.0, "EUR", 2, 0), (6.0, "USD", 2, 0)]
    costs = [(cost.amount, cost.currency, cost.cells, cost.unpriced) for cost in rows["model-1"].costs]
    assert costs == [(4.0, "EUR", 2, 2)]
    batch.doc_eval("UPDATE batches SET prices_at_completion = '{}'")
    assert [row.costs for row in gather_leaderboard(batch.databases).rows] == [(), ()]


def test_models_without_a_common_document_are_ranked_and_not_compared(batch_of: BatchOf) -> None:
    batch = answered(
        batch_of(documents=4, prompts=1),
        "UPDATE llm_responses SET status = 'S', overall_score = CASE WHEN (document_id % 2 = 0) = "
        "(connection_id % 2 = 0) THEN 50 + connection_id % 2 END",
    )
    (board,) = gather_leaderboard(batch.databases).boards
    leader, other = board.rows
    assert (leader.is_leader, leader.difference, leader.against) == (True, None, other.connection_id)
    assert (other.is_apart, other.difference, other.is_tied) == (True, None, False)


def test_the_page_is_the_same_file_until_results_change(batch_of: BatchOf) -> None:
    batch = answered(batch_of(documents=3))
    first = write_leaderboard(batch.databases)
    assert write_leaderboard(batch.databases).path == first.path
    assert is_page_of_leaderboard(first.path.name)
    assert len(first.path.read_bytes()) == first.size
    answered(over_the_same_documents(batch, "again"))
    assert write_leaderboard(batch.databases).path != first.path


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


def test_a_leaderboard_has_the_digest_that_the_sensor_compares_with(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    assert digest_of(batch) == gather_leaderboard(batch.databases).digest == NOTHING
    for made in (batch, batch_of(documents=1, name="b"), batch_of(documents=2, name="c")):
        answered(made)
        write_report(made.databases, made.id)
        assert digest_of(batch) == gather_leaderboard(batch.databases).digest != NOTHING


def test_a_batch_that_is_reported_meanwhile_is_neither_counted_nor_in_the_digest(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = answered(batch_of(documents=1)), batch_of(documents=1, name="b")
    before = digest_of(first)

    def find_and_report(connection: Connection) -> list[int]:
        found = finished_batches(connection)
        answered(second)
        return found

    monkeypatch.setattr(leaderboard, "finished_batches", find_and_report)
    board = gather_leaderboard(first.databases)
    assert (board.batches, board.digest) == (1, before)
    assert digest_of(first) != before


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
