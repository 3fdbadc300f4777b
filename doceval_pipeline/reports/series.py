"""Renders the series of a recurring evaluation: the page, the summary in Dagster, and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.insights import ContentChanges
from doceval_pipeline.domain.series import OccurrenceState, SeriesOccurrence
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.recurrence import local_time
from doceval_pipeline.reports import svg
from doceval_pipeline.reports.formatting import amount, counted, money, score_text
from doceval_pipeline.reports.sanitize import markdown_name

TEMPLATE = "series.html.j2"
OCCURRENCES_SHOWN = 120
"""This many of the newest occurrences are drawn and listed; the others are only counted."""
COLUMNS_SHOWN = 20
CHANGES_SHOWN = 300
_ROWS_IN_DAGSTER = 30


@dataclass(frozen=True, slots=True)
class Series:
    """The whole series of a recurring evaluation."""

    name: str
    timezone: str
    """The zone in which times are shown."""
    occurrences: Sequence[SeriesOccurrence]
    """The newest of `total`, oldest first."""
    total: int
    columns: Mapping[Column, tuple[str, str]]
    """The names of connection and prompt."""
    changes: ContentChanges
    digest: str
    """The same for the same series."""

    @property
    def shown(self) -> Sequence[SeriesOccurrence]:
        """The newest occurrences, oldest first."""
        return self.occurrences[-OCCURRENCES_SHOWN:]

    @property
    def simulated(self) -> int:
        """The number of simulated results."""
        return sum(occurrence.simulated for occurrence in self.occurrences)

    def time(self, moment: datetime) -> str:
        """A time in the zone of the evaluation, such as 2026-12-01 02:00 CET."""
        return f"{local_time(moment, self.timezone):%Y-%m-%d %H:%M %Z}"

    def count(self, *states: OccurrenceState) -> int:
        """The number of occurrences in any of the given states."""
        return sum(occurrence.state in states for occurrence in self.occurrences)

    @property
    def drifted(self) -> int:
        """The number of occurrences with marked drift."""
        return sum(occurrence.has_drifted for occurrence in self.occurrences)

    @property
    def is_compared(self) -> bool:
        """Whether any column of any occurrence is compared with earlier ones."""
        results = (result for o in self.occurrences for result in (o.columns or {}).values())
        return any(result.drift is not None and result.drift.p is not None for result in results)

    @property
    def verdict(self) -> str:
        """The series in one sentence, without names."""
        counts = counted(self.total, "occurrence", "occurrences")
        if self.total > len(self.occurrences):
            counts += f"; of the newest {amount(len(self.occurrences))}"
        counts += f", {amount(self.count(OccurrenceState.DONE))} done"
        for state in OccurrenceState:
            if state is not OccurrenceState.DONE and (count := self.count(state)):
                counts += f", {amount(count)} {state}"
        if not self.columns:
            return f"{counts}: no results to compare"
        if not self.is_compared:
            return f"{counts}: nothing to compare with yet"
        return f"{counts}: {f'drift in {amount(self.drifted)}' if self.drifted else 'no drift'}"


def render_series(series: Series, compiled: Path | None = None) -> str:
    """Render the page of a series; the same series gives the same page.

    Parameters
    ----------
    compiled
        An existing folder, writable only by this user, for compiled templates.
    """
    # Jinja is loaded only to write a page.
    from doceval_pipeline.reports.html import render_page

    columns = list(series.columns)
    return render_page(
        TEMPLATE,
        compiled,
        series=series,
        shown=series.shown,
        rows=_rows(series.shown),
        columns=columns[:COLUMNS_SHOWN],
        columns_left_out=max(0, len(columns) - COLUMNS_SHOWN),
        pictures={column: svg.series(_places(series, column)) for column in columns[:COLUMNS_SHOWN]},
        OccurrenceState=OccurrenceState,
    )


def series_numbers(series: Series) -> dict[str, int | float]:
    """Figures under stable names, which Dagster plots over time.

    `occurrences` counts all; every other figure is of the newest `occurrences_read`.
    """
    newest = next((o for o in reversed(series.occurrences) if o.state is OccurrenceState.DONE), None)
    numbers: dict[str, int | float] = {
        "occurrences": series.total,
        "occurrences_read": len(series.occurrences),
        "occurrences_made": sum(o.partition_key is not None for o in series.occurrences),
        "occurrences_skipped": series.count(OccurrenceState.SKIPPED),
        "occurrences_failed": series.count(OccurrenceState.NOT_MADE, OccurrenceState.FAILED),
        "occurrences_held": series.count(OccurrenceState.HELD),
        "occurrences_archived": series.count(OccurrenceState.ARCHIVED),
        "occurrences_drifted": series.drifted,
        "cells": sum(o.cells for o in series.occurrences),
        "cells_succeeded": sum(o.succeeded for o in series.occurrences),
        "cells_failed": sum(o.failed for o in series.occurrences),
        "cells_reused": sum(o.reused for o in series.occurrences),
        "cells_simulated": series.simulated,
        "contents_changed": series.changes.contents,
        "scores_changed_with_content": series.changes.total,
    }
    if newest is not None:
        numbers |= {"newest_cells": newest.cells, "newest_cells_failed": newest.failed}
    return numbers


def series_data(series: Series) -> dict[str, Any]:
    """The series for programs: every occurrence with its columns, and the changed documents."""
    return {
        "version": 1,
        "name": series.name,
        "verdict": series.verdict,
        "numbers": series_numbers(series),
        "occurrences": [_occurrence_data(series, occurrence) for occurrence in series.occurrences],
        "changes": {
            "contents": series.changes.contents,
            "looked_at": series.changes.looked_at,
            "same_score": series.changes.same,
            "changed_scores": series.changes.total,
            "documents": [
                {
                    **_column_names(series, score.column),
                    "due_at": score.content.due_at,
                    "partition": score.content.partition_key,
                    "file": score.content.file,
                    "before": score.before,
                    "after": score.after,
                    "question_changed": score.is_other_question,
                }
                for score in series.changes.documents
            ],
        },
    }


def _occurrence_data(series: Series, occurrence: SeriesOccurrence) -> dict[str, Any]:
    return {
        "due_at": occurrence.due_at,
        "state": occurrence.state.value,
        "reason": occurrence.reason,
        "partition": occurrence.partition_key,
        "batch": occurrence.batch,
        "files": asdict(occurrence.files),
        "cells": occurrence.cells,
        "succeeded": occurrence.succeeded,
        "failed": occurrence.failed,
        "reused": occurrence.reused,
        "simulated": occurrence.simulated,
        "seconds": occurrence.seconds,
        "processor_seconds": occurrence.processor_seconds,
        "costs": [asdict(cost) for cost in occurrence.costs],
        "columns": [
            {**_column_names(series, column), **asdict(result)}
            for column, result in (occurrence.columns or {}).items()
        ],
    }


def _column_names(series: Series, column: Column) -> dict[str, str]:
    connection, prompt = series.columns.get(column, ("", ""))
    return {"connection": connection, "prompt": prompt}


def series_markdown(series: Series) -> str:
    """The newest occurrences as a table in markdown; foreign texts are plain text."""
    lines = [
        f"{series.verdict}.",
        "",
        "| time | batch | state | mean scores | failed | reused | cost |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    lines += [_row(series, occurrence) for occurrence in reversed(series.occurrences[-_ROWS_IN_DAGSTER:])]
    if series.total > _ROWS_IN_DAGSTER:
        lines += ["", f"{amount(series.total - _ROWS_IN_DAGSTER)} earlier occurrences are not shown."]
    return "\n".join(lines) + "\n"


def cost_text(costs: Sequence[Cost]) -> str:
    """Costs in words, one currency after the other; a dash without any."""
    return ", ".join(f"{money(cost.amount)} {cost.currency}" for cost in costs) or "–"


def _row(series: Series, occurrence: SeriesOccurrence) -> str:
    means = [
        f"{markdown_name(' · '.join(series.columns[column]), 60)} {score_text(result.mean)}"
        + (" **DRIFT**" if result.drift is not None and result.drift.is_marked else "")
        for column, result in list((occurrence.columns or {}).items())[:COLUMNS_SHOWN]
        if result.mean is not None
    ]
    state = str(occurrence.state) + (
        f": {markdown_name(occurrence.reason, 200)}" if occurrence.reason else ""
    )
    values = (
        series.time(occurrence.due_at),
        occurrence.partition_key or "–",
        state,
        ", ".join(means) or "–",
        amount(occurrence.failed),
        amount(occurrence.reused),
        markdown_name(cost_text(occurrence.costs)),
    )
    return f"| {' | '.join(values)} |"


def _rows(shown: Sequence[SeriesOccurrence]) -> list[list[SeriesOccurrence]]:
    """The rows of the table, newest first: adjacent occurrences skipped for the same reason share a row."""

    def row_of(numbered: tuple[int, SeriesOccurrence]) -> tuple[int, str | None]:
        place, occurrence = numbered
        return (-1, occurrence.reason) if occurrence.state is OccurrenceState.SKIPPED else (place, None)

    newest_first = enumerate(reversed(shown))
    return [[occurrence for _, occurrence in group] for _, group in groupby(newest_first, row_of)]


def _places(series: Series, column: Column) -> list[svg.SeriesPlace]:
    """A column in each of the shown occurrences, for the drawing."""
    places = []
    for occurrence in series.shown:
        result = (occurrence.columns or {}).get(column)
        drift = None if result is None else result.drift
        places.append(
            svg.SeriesPlace(
                day=f"{local_time(occurrence.due_at, series.timezone):%Y-%m-%d}",
                time=series.time(occurrence.due_at),
                mean=None if result is None else result.mean,
                scored=0 if result is None else result.scored,
                failed=0 if result is None else result.failed,
                cells=0 if result is None else result.cells,
                is_marked=drift is not None and drift.is_marked,
                is_other_question=drift is not None and drift.is_other_question,
                is_missing=occurrence.state in (OccurrenceState.NOT_MADE, OccurrenceState.FAILED),
            )
        )
    return places
