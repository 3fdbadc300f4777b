"""What a workbook says before its records: what is decided, and the figures of each model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from doceval_pipeline.domain.export_record import Value
from doceval_pipeline.domain.insights import BelowThreshold, PromptLeaderboard, Standing
from doceval_pipeline.reports.decision import prompt_name
from doceval_pipeline.reports.labels import ColumnLabels
from doceval_pipeline.reports.model import ReportColumn, ReportFigures
from doceval_pipeline.reports.phrases import shown_name
from doceval_pipeline.reports.summary import summary_sentences

# The titles of `Overview.standings`, each with the number format of its column.
TITLES: tuple[tuple[str, str | None], ...] = (
    ("prompt", None),
    ("model", None),
    ("mean score", "0.0"),
    ("95 % from", "0.0"),
    ("95 % to", "0.0"),
    ("documents scored", "#,##0"),
    ("comparison", None),
    ("difference", "+0.0;-0.0;0.0"),
    ("against", None),
    ("documents compared", "#,##0"),
    ("p", '[<0.001]"< 0.001";0.000'),
    ("margin", None),
    ("cost", "#,##0.00####"),
    ("currency", None),
    ("cost per document", "#,##0.00####"),
    ("without known cost", "#,##0"),
    ("median seconds", "#,##0.0##"),
    ("failed", "#,##0"),
    ("no score", "#,##0"),
    ("no result yet", "#,##0"),
    ("simulated", "#,##0"),
    ("input tokens", "#,##0"),
    ("output tokens", "#,##0"),
    ("threshold", "0.##"),
    ("documents below", "#,##0"),
)
MOST_ROWS = 10_000
SENTENCES_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Overview:
    """The contents of the first sheet, and the columns of the second."""

    title: str
    facts: Sequence[tuple[str, str]]
    sentences: Sequence[str]
    standings: Sequence[Sequence[Value]]
    """A row for each prompt and model, best model first, with the values of `TITLES`."""
    notes: Sequence[str]
    columns: Sequence[ReportColumn]
    """By prompt, then model."""


NO_OVERVIEW = Overview("", (), (), (), (), ())


def overview_of(figures: ReportFigures, read_at: datetime) -> Overview:
    """The overview of a batch whose results were read at the given time, in UTC."""
    labels = ColumnLabels.of(figures)
    rows = list(_rows(figures, labels))
    more = len(rows) - MOST_ROWS
    return Overview(
        title=shown_name(figures.name),
        facts=(
            ("batch", figures.partition_key),
            ("result", figures.verdict),
            ("results of", f"{read_at:%Y-%m-%d %H:%M} UTC"),
        ),
        sentences=summary_sentences(figures, SENTENCES_SHOWN),
        standings=rows[:MOST_ROWS],
        notes=[
            *([f"{more:,} more rows are in the report."] if more > 0 else []),
            "Differences are on the documents that both models scored; p is corrected for all comparisons. "
            "An empty cell is unknown, never 0.",
        ],
        columns=_by_prompt(figures),
    )


def _by_prompt(figures: ReportFigures) -> list[ReportColumn]:
    columns = [column.column for column in figures.columns]
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(c.prompt_id for c in columns))}
    return sorted(columns, key=lambda column: places[column.prompt_id])


def _rows(figures: ReportFigures, labels: ColumnLabels) -> Iterator[tuple[Value, ...]]:
    insights = figures.insights
    below = {part.prompt_id: part for part in insights.below_thresholds}
    for board in insights.boards:
        part = None if board.prompt_id is None else below.get(board.prompt_id)
        for standing in board.standings:
            yield _row(board, standing, part, labels)


def _row(
    board: PromptLeaderboard, standing: Standing, below: BelowThreshold | None, labels: ColumnLabels
) -> tuple[Value, ...]:
    scores, difference, usage = standing.scores, standing.difference, standing.usage
    cost, test = usage.cost, standing.margin_test
    return (
        prompt_name(board, labels),
        shown_name(labels.connection(standing.connection_id)),
        None if scores is None else scores.mean,
        None if scores is None else scores.low,
        None if scores is None else scores.high,
        0 if scores is None else scores.n,
        _comparison(board, standing),
        None if difference is None else difference.mean,
        None if standing.against is None else shown_name(labels.connection(standing.against)),
        None if difference is None else difference.n,
        None if difference is None else difference.p,
        None if test is None else str(test.conclusion),
        None if cost is None else cost.amount,
        None if cost is None else cost.currency,
        usage.cost_per_document,
        usage.cells if cost is None else cost.unpriced,
        None if usage.seconds is None else usage.seconds.p50,
        standing.failed,
        standing.without_score,
        standing.without_result,
        standing.simulated,
        None if usage.input_tokens is None else usage.input_tokens.value,
        None if usage.output_tokens is None else usage.output_tokens.value,
        None if below is None else below.threshold,
        None if below is None else dict(below.by_connection).get(standing.connection_id, 0),
    )


def _comparison(board: PromptLeaderboard, standing: Standing) -> str:
    """The place of a model in words."""
    if standing.scores is None:
        return "no scores"
    if standing is board.standings[0]:
        if len(board.ranked) == 1:
            return "only one"
        return "highest, no clear winner" if any(other.tied for other in board.ranked) else "highest"
    if standing.difference is None:
        return "not comparable"
    return "no clear winner" if standing.tied else "lower"
