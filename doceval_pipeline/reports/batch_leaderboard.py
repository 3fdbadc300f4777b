"""The leaderboards of one batch for the terminal and for programs, as its completion report has them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from doceval_pipeline.domain.insights import PromptLeaderboard, Standing
from doceval_pipeline.reports.decision import Decision, decide
from doceval_pipeline.reports.labels import ColumnLabels
from doceval_pipeline.reports.model import ReportFigures


@dataclass(frozen=True, slots=True)
class BatchBoard:
    """A leaderboard of a batch with what it decides."""

    board: PromptLeaderboard
    decision: Decision
    labels: ColumnLabels

    def name(self, standing: Standing) -> str:
        """The name of a standing's connection, unchanged."""
        return self.labels.connection(standing.connection_id)

    def against(self, standing: Standing) -> str | None:
        """The name of the connection that a standing is compared with, unchanged."""
        return None if standing.against is None else self.labels.connection(standing.against)

    @property
    def prompt(self) -> str | None:
        """The name of its prompt, unchanged; None for the overall ranking."""
        return None if self.board.prompt_id is None else self.labels.prompt(self.board.prompt_id)

    @property
    def simulated(self) -> int:
        """The number of simulated evaluations."""
        return sum(standing.simulated for standing in self.board.standings)


def batch_boards(figures: ReportFigures) -> Sequence[BatchBoard]:
    """The leaderboards of a report: the overall ranking first, then each prompt."""
    labels = ColumnLabels.of(figures)
    return [BatchBoard(board, decide(board, labels), labels) for board in figures.insights.boards]


def batch_boards_data(figures: ReportFigures, boards: Sequence[BatchBoard]) -> dict[str, Any]:
    """The leaderboards of a batch for programs."""
    return {
        "version": 1,
        "batch": figures.batch_id,
        "partition": figures.partition_key,
        "name": figures.name,
        "verdict": figures.verdict,
        "margin": figures.insights.margin,
        "boards": [_board_data(board) for board in boards],
    }


def _board_data(board: BatchBoard) -> dict[str, Any]:
    return {
        "prompt": board.prompt,
        "prompt_id": board.board.prompt_id,
        "weights": [
            {"prompt": board.labels.prompt(prompt_id), "weight": weight}
            for prompt_id, weight in board.board.weights
        ],
        "simulated": board.simulated,
        "same_documents": board.board.is_same_documents,
        "sentence": board.decision.sentence,
        "choice": list(board.decision.choice),
        "rows": [
            _standing_data(board, place, standing)
            for place, standing in enumerate(board.board.standings, start=1)
        ],
    }


def _standing_data(board: BatchBoard, place: int, standing: Standing) -> dict[str, Any]:
    scores, usage = standing.scores, standing.usage
    difference = None
    if standing.difference is not None:
        difference = {"against": board.against(standing), **asdict(standing.difference)}
    return {
        "rank": None if scores is None else place,
        "connection": board.name(standing),
        "connection_id": standing.connection_id,
        "mean_score": None if scores is None else scores.mean,
        "mean_score_low": None if scores is None else scores.low,
        "mean_score_high": None if scores is None else scores.high,
        "scored": 0 if scores is None else scores.n,
        "difference": difference,
        "tied": standing.tied,
        "margin_test": None if standing.margin_test is None else asdict(standing.margin_test),
        "failed": standing.failed,
        "without_score": standing.without_score,
        "without_result": standing.without_result,
        "simulated": standing.simulated,
        "input_tokens": None if usage.input_tokens is None else usage.input_tokens.value,
        "output_tokens": None if usage.output_tokens is None else usage.output_tokens.value,
        "seconds_p50": None if usage.seconds is None else usage.seconds.p50,
        "cost": None
        if usage.cost is None
        else {**asdict(usage.cost), "per_document": usage.cost.per_document},
    }
