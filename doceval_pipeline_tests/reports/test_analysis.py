"""Leaderboard, distribution and disagreement; the rest is compared with a plain model in
`batches/results/test_report_input.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.insights import Standing
from doceval_pipeline.reports import analysis
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline.reports.standings import RankingInput, Values, rank_models
from doceval_pipeline_tests.reports.sample_reports import cell, column, document, failed, report_input

NAN = float("nan")
DOCUMENTS = np.arange(1, 31)


def standings_of(data: ReportInput, columns: Sequence[Column], values: Values) -> Sequence[Standing]:
    """The standings of the only prompt."""
    (board,) = rank_models(figures(data).columns, RankingInput(columns, values)).by_prompt
    return board.standings


def test_evaluations_missing_from_a_mean_are_counted_by_reason() -> None:
    rows = [cell(1), cell(2, score=None), failed(3), failed(4, None, outcome="waiting", status="QUEUED")]
    data = report_input([document(n) for n in range(1, 6)], [column()], rows)
    values = np.array([[80.0], [NAN], [NAN], [NAN]])
    (standing,) = standings_of(data, [(1, 1)], values)
    assert standing.scores is not None
    assert (standing.scores.n, standing.scores.mean) == (1, 80.0)
    assert (standing.failed, standing.without_score, standing.without_result) == (1, 1, 2)


def test_a_column_without_shared_documents_is_tied_with_the_leader() -> None:
    data = report_input([document(1), document(2)], [column(1), column(2)], [cell(1, 1), cell(2, 2)])
    values = np.array([[10.0, NAN], [NAN, 90.0]])
    first, second = standings_of(data, [(1, 1), (2, 1)], values)
    assert (first.connection_id, first.tied, first.against, first.difference) == (2, False, 1, None)
    assert (second.connection_id, second.tied, second.against, second.difference) == (1, True, 2, None)


def test_the_p_of_a_leaderboard_is_corrected_for_all_comparisons() -> None:
    columns = [column(n) for n in (1, 2, 3)]
    data = report_input([], columns, [cell(1, n) for n in (1, 2, 3)])
    rising = np.arange(30.0)
    values = np.column_stack([50 + rising, 49 + rising, 48 + rising])
    keys = [(n, 1) for n in (1, 2, 3)]
    both = standings_of(data, keys, values)[1].difference
    alone = standings_of(replace(data, columns=columns[:2], column_sums={}), keys[:2], values[:, :2])[
        1
    ].difference
    assert both is not None
    assert alone is not None
    assert both.p is not None
    assert alone.p is not None
    assert both.p >= 2 * alone.p * 0.999


def test_a_document_is_named_once_with_its_worst_prompt() -> None:
    columns = [(1, 1), (1, 2), (2, 1), (2, 2)]
    values = np.array([[10.0, 0.0, 20.0, 90.0], [50.0, 50.0, 50.0, NAN]])
    (found,) = analysis.disagreements(str, np.array([7, 8]), columns, values)
    assert (found.document, found.prompt_id, found.scores, found.spread) == (
        "7",
        2,
        ((1, 0.0), (2, 90.0)),
        90,
    )
    assert analysis.most_disagreed(np.array([7, 8]), columns, values) == [7]


def test_a_perfect_score_is_in_the_last_bin_and_a_zero_in_the_first() -> None:
    (found,) = analysis.distributions([(1, 1)], np.array([[0.0], [4.99], [5.0], [100.0]]))
    assert (found.bins[0], found.bins[1], found.bins[19], sum(found.bins)) == (2, 1, 1, 4)


def test_of_many_connections_only_the_best_are_paired() -> None:
    columns = [(n, 1) for n in range(1, 41)]
    data = report_input([], [column(n) for n in range(1, 41)], [cell(1, n) for n in range(1, 41)])
    values = np.arange(40.0) + np.arange(30.0)[:, None]
    boards = rank_models(figures(data).columns, RankingInput(columns, values)).by_prompt
    found = analysis.agreements(boards, columns, values)
    assert len(found) == 12 * 11 // 2
    assert {agreement.first for agreement in found} <= set(range(29, 41))
    assert all(agreement.correlation == 1 and agreement.n == 30 for agreement in found)


def test_an_empty_table_has_no_results() -> None:
    nothing = np.empty(0, np.int64), [], np.empty((0, 0))
    assert analysis.mean_score(nothing[2]) is None
    assert rank_models((), RankingInput([], nothing[2])).by_prompt == []
    assert analysis.disagreements(str, *nothing) == []
    assert analysis.agreements([], *nothing[1:]) == []
