"""The sentences that sum up a report wherever there is no page: in Dagster and in a workbook."""

from doceval_pipeline.domain.insights import BelowThreshold
from doceval_pipeline.reports.decision import decisions
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.reports.labels import ColumnLabels
from doceval_pipeline.reports.model import ReportFigures
from doceval_pipeline.reports.phrases import GENEROUS, shown_name


def summary_sentences(figures: ReportFigures, most: int) -> list[str]:
    """What is decided, how many documents fall below thresholds, and what a score does not show.

    Names in them are visible and cut, and are not escaped.

    Parameters
    ----------
    most
        The highest number of decisions and thresholds; further ones are counted.
    """
    labels = ColumnLabels.of(figures)
    sentences = [decision.sentence for decision in decisions(figures)]
    sentences += [_below(part, labels) for part in figures.insights.below_thresholds]
    more = len(sentences) - most
    shown = sentences[:most] + ([f"{more:,} more are in the report."] if more > 0 else [])
    is_scored = any(board.ranked for board in figures.insights.leaderboards)
    return [*shown, *([GENEROUS] if is_scored else [])]


def _below(part: BelowThreshold, labels: ColumnLabels) -> str:
    prompt = shown_name(labels.prompt(part.prompt_id))
    documents = counted(part.scored, "document", "documents")
    verb = "falls" if part.documents == 1 else "fall"
    return f"For {prompt}, {part.documents:,} of {documents} {verb} below {part.threshold:g}."
