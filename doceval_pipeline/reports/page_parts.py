"""Decides which sections the page of a report has, and names those without data in one line."""

from collections.abc import Iterator, Mapping
from typing import Any

from doceval_pipeline.domain.insights import SincePrevious
from doceval_pipeline.reports.labels import Words
from doceval_pipeline.reports.model import ReportFigures, ReportInput

FOLDED = (
    ("integrity", "Integrity"),
    ("configuration", "Sealed configuration"),
    ("provenance", "Provenance"),
)
"""Sections that every page has, at its end, closed until a reader opens them."""


def sections(
    data: ReportInput, figures: ReportFigures, words: Words
) -> tuple[list[tuple[str, str]], list[str]]:
    """The sections with data in the order of the page, each with its id, and names of what has none."""
    shown, nothing = [], []
    for target, title, absent, has_data in _all(data, figures, words):
        if has_data:
            shown.append((target, title))
        elif absent:
            nothing.append(absent)
    throughput = data.insights.counts.throughput
    if throughput and throughput.bins and not throughput.stalls:
        nothing.append("stalls")
    return shown, nothing


def without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    """A sealed configuration without the paths of its folders, which name folders of the server."""
    folders = config.get("folders")
    if not isinstance(folders, list):
        return dict(config)
    kept = [
        {key: value for key, value in item.items() if key != "path"} if isinstance(item, Mapping) else None
        for item in folders
    ]
    return {**config, "folders": kept}


def runs(data: ReportInput) -> list[tuple[str, str]]:
    """The runs of Dagster, each once, with the assets that it made."""
    assets: dict[str, list[str]] = {}
    for asset, run in data.insights.provenance.runs:
        assets.setdefault(run, []).append(asset)
    return [(", ".join(names), run) for run, names in assets.items()]


def _all(data: ReportInput, figures: ReportFigures, words: Words) -> Iterator[tuple[str, str, str, bool]]:
    """The id, title and name of each section, and whether it has data."""
    insights, between = data.insights, f"between {words.many}"
    boards = any(board.standings for board in insights.leaderboards)
    yield "leaderboard", "Leaderboard", "leaderboard", boards
    yield "thresholds", "Below the threshold", "", bool(insights.below_thresholds)
    yield "failures", "Failures", "failures", bool(data.failures)
    yield "matrix", "Results", "results", bool(data.rows)
    yield "distributions", "Distribution", "distribution of scores", bool(insights.distributions)
    yield "disagreements", "Disagreement", f"disagreement {between}", bool(insights.disagreements)
    yield "agreement", "Agreement", f"agreement {between}", bool(insights.agreements)
    yield "previous", "Change", "change since an earlier batch", _has_change(insights.previous)
    throughput = insights.counts.throughput
    yield "throughput", "Throughput", "throughput", bool(throughput and throughput.bins)
    yield "reprocessed", "Reprocessed", "reprocessed evaluations", bool(figures.sums.reprocessed)
    yield "left-out", "Files left out", "files left out", bool(data.not_evaluated)
    yield "reused", "Reused results", "reused results", bool(figures.sums.reused)


def _has_change(previous: SincePrevious | None) -> bool:
    return previous is not None and bool(previous.columns or previous.same_results or previous.occurrence)
