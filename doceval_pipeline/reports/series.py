"""The series of a recurring evaluation: its figures by occurrence, its page, and what Dagster shows of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.insights import ContentChanges
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.recurrence import local_time
from doceval_pipeline.reports import svg
from doceval_pipeline.reports.formatting import amount, counted, money, score_text
from doceval_pipeline.reports.sanitize import markdown_name

TEMPLATE = "series.html.j2"
OCCURRENCES_SHOWN = 120
"""The newest so many occurrences are drawn and listed; the others are counted."""
COLUMNS_SHOWN = 20
CHANGES_SHOWN = 300
_ROWS_IN_DAGSTER = 30


class State(StrEnum):
    """What became of an occurrence, in the words of the page."""

    DONE = "done"
    FAILED = "failed"
    """Its batch has no successful evaluation."""
    CANCELLED = "cancelled"
    OPEN = "open"
    PAUSED = "paused"
    HELD = "held"
    ARCHIVED = "archived"
    SKIPPED = "skipped"
    NOT_MADE = "not made"


@dataclass(frozen=True, slots=True)
class Drift:
    """How the scores of a column differ from those of earlier occurrences.

    `change` is the mean difference and `p` allows for all columns and the whole series; None where there is
    nothing to compare. Of `now` documents, either each is compared with its own earlier score, or all are
    compared with the `before` documents of earlier occurrences. `is_other_question` where the prompt text or
    the connection is not as it was in the occurrence before.
    """

    change: float | None
    p: float | None
    now: int
    before: int
    is_paired: bool
    is_other_question: bool
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A column in an occurrence; `mean` of `scored` results, reused ones among them, None of none."""

    cells: int
    failed: int
    reused: int
    scored: int
    mean: float | None
    drift: Drift | None

    @property
    def not_compared(self) -> str | None:
        """Why its scores are compared with nothing; None where they are compared."""
        if self.drift is not None and self.drift.p is not None:
            return None
        if not self.scored:
            return "it has no scores"
        if self.drift is not None and self.drift.is_other_question:
            return "the prompt text or the connection changed"
        if self.drift is None and self.reused >= self.scored:
            return "all of its scores are reused"
        return "no earlier scores to compare with"


@dataclass(frozen=True, slots=True)
class SeriesOccurrence:
    """An occurrence; figures are 0 and None where its results are not in the database.

    `seconds` from the start of its batch to its completion, `processor_seconds` as processors report them.
    """

    due_at: datetime
    state: State
    reason: str | None
    partition_key: str | None
    batch: str | None
    files: tuple[int, int, int, int]
    """New, changed, unchanged, gone."""
    cells: int = 0
    succeeded: int = 0
    failed: int = 0
    reused: int = 0
    simulated: int = 0
    seconds: float | None = None
    processor_seconds: float | None = None
    costs: Sequence[Cost] = ()
    points: Mapping[Column, Point] | None = None

    @property
    def has_drifted(self) -> bool:
        """Whether any column is marked."""
        return any(p.drift is not None and p.drift.is_marked for p in (self.points or {}).values())


@dataclass(frozen=True, slots=True)
class Series:
    """All of it. `occurrences` are the newest of `total`, oldest first, and `columns` have names.

    `timezone` is the name of the zone in which times are shown.
    """

    name: str
    timezone: str
    occurrences: Sequence[SeriesOccurrence]
    total: int
    columns: Mapping[Column, tuple[str, str]]
    changes: ContentChanges
    digest: str

    @property
    def shown(self) -> Sequence[SeriesOccurrence]:
        """The newest occurrences, oldest first."""
        return self.occurrences[-OCCURRENCES_SHOWN:]

    @property
    def simulated(self) -> int:
        """How many results no LLM gave."""
        return sum(occurrence.simulated for occurrence in self.occurrences)

    def time(self, moment: datetime) -> str:
        """A time in the time zone of the evaluation: 2026-12-01 02:00 CET."""
        return f"{local_time(moment, self.timezone):%Y-%m-%d %H:%M %Z}"

    def count(self, *states: State) -> int:
        """How many occurrences are in some states."""
        return sum(occurrence.state in states for occurrence in self.occurrences)

    @property
    def drifted(self) -> int:
        """How many occurrences have a mark."""
        return sum(occurrence.has_drifted for occurrence in self.occurrences)

    @property
    def is_compared(self) -> bool:
        """Whether any column of any occurrence could be compared with earlier ones."""
        points = (point for o in self.occurrences for point in (o.points or {}).values())
        return any(point.drift is not None and point.drift.p is not None for point in points)

    @property
    def verdict(self) -> str:
        """The series in one sentence, without names."""
        said = counted(self.total, "occurrence", "occurrences")
        if self.total > len(self.occurrences):
            said += f"; of the newest {amount(len(self.occurrences))}"
        said += f", {amount(self.count(State.DONE))} done"
        for state in State:
            if state is not State.DONE and (count := self.count(state)):
                said += f", {amount(count)} {state}"
        if not self.columns:
            return f"{said}: no results to compare"
        if not self.is_compared:
            return f"{said}: nothing to compare with yet"
        return f"{said}: {f'drift in {amount(self.drifted)}' if self.drifted else 'no drift'}"


def render_series(series: Series, compiled: Path | None = None) -> str:
    """The page of a series; the same for the same series.

    Parameters
    ----------
    compiled
        A folder of ours that keeps compiled templates; it must exist.
    """
    # Jinja is loaded only where a page is written.
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
        State=State,
    )


def series_numbers(series: Series) -> dict[str, int | float]:
    """Figures under stable names, which Dagster plots over time.

    `occurrences` are all; every other figure is of the newest `occurrences_read`.
    """
    newest = next((o for o in reversed(series.occurrences) if o.state is State.DONE), None)
    numbers: dict[str, int | float] = {
        "occurrences": series.total,
        "occurrences_read": len(series.occurrences),
        "occurrences_made": sum(o.partition_key is not None for o in series.occurrences),
        "occurrences_skipped": series.count(State.SKIPPED),
        "occurrences_failed": series.count(State.NOT_MADE, State.FAILED),
        "occurrences_held": series.count(State.HELD),
        "occurrences_archived": series.count(State.ARCHIVED),
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
                    **_named(series, document.column),
                    "due_at": document.due_at,
                    "partition": document.partition_key,
                    "file": document.file,
                    "before": document.before,
                    "after": document.after,
                    "question_changed": document.is_other_question,
                }
                for document in series.changes.documents
            ],
        },
    }


def _occurrence_data(series: Series, occurrence: SeriesOccurrence) -> dict[str, Any]:
    new, changed, unchanged, gone = occurrence.files
    return {
        "due_at": occurrence.due_at,
        "state": occurrence.state.value,
        "reason": occurrence.reason,
        "partition": occurrence.partition_key,
        "batch": occurrence.batch,
        "files": {"new": new, "changed": changed, "unchanged": unchanged, "gone": gone},
        "cells": occurrence.cells,
        "succeeded": occurrence.succeeded,
        "failed": occurrence.failed,
        "reused": occurrence.reused,
        "simulated": occurrence.simulated,
        "seconds": occurrence.seconds,
        "processor_seconds": occurrence.processor_seconds,
        "costs": [asdict(cost) for cost in occurrence.costs],
        "columns": [
            {**_named(series, column), **asdict(point)} for column, point in (occurrence.points or {}).items()
        ],
    }


def _named(series: Series, column: Column) -> dict[str, str]:
    connection, prompt = series.columns.get(column, ("", ""))
    return {"connection": connection, "prompt": prompt}


def series_markdown(series: Series) -> str:
    """The newest occurrences as a table in markdown; nothing of others but names, as plain text."""
    lines = [
        f"{series.verdict}.",
        "",
        "| time | batch | what became of it | mean scores | failed | reused | cost |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    lines += [_row(series, occurrence) for occurrence in reversed(series.occurrences[-_ROWS_IN_DAGSTER:])]
    if series.total > _ROWS_IN_DAGSTER:
        lines += ["", f"{amount(series.total - _ROWS_IN_DAGSTER)} earlier occurrences are not shown."]
    return "\n".join(lines) + "\n"


def cost_text(costs: Sequence[Cost]) -> str:
    """Costs in words, a currency after the other; a dash where none is known."""
    return ", ".join(f"{money(cost.amount)} {cost.currency}" for cost in costs) or "–"


def _row(series: Series, occurrence: SeriesOccurrence) -> str:
    means = [
        f"{markdown_name(' · '.join(series.columns[column]), 60)} {score_text(point.mean)}"
        + (" **DRIFT**" if point.drift is not None and point.drift.is_marked else "")
        for column, point in list((occurrence.points or {}).items())[:COLUMNS_SHOWN]
        if point.mean is not None
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
    """The rows of the table, newest first: those skipped one after the other for one reason share a row."""

    def row_of(numbered: tuple[int, SeriesOccurrence]) -> tuple[int, str | None]:
        place, occurrence = numbered
        return (-1, occurrence.reason) if occurrence.state is State.SKIPPED else (place, None)

    newest_first = enumerate(reversed(shown))
    return [[occurrence for _, occurrence in group] for _, group in groupby(newest_first, row_of)]


def _places(series: Series, column: Column) -> list[svg.SeriesPlace]:
    """A column over the shown occurrences, as it is drawn."""
    places = []
    for occurrence in series.shown:
        point = (occurrence.points or {}).get(column)
        drift = None if point is None else point.drift
        places.append(
            svg.SeriesPlace(
                day=f"{local_time(occurrence.due_at, series.timezone):%Y-%m-%d}",
                time=series.time(occurrence.due_at),
                mean=None if point is None else point.mean,
                scored=0 if point is None else point.scored,
                failed=0 if point is None else point.failed,
                cells=0 if point is None else point.cells,
                is_marked=drift is not None and drift.is_marked,
                is_other_question=drift is not None and drift.is_other_question,
                is_missing=occurrence.state in (State.NOT_MADE, State.FAILED),
            )
        )
    return places
