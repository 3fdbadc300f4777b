"""Properties of a series' page, for any series."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from doceval_pipeline.domain.insights import ContentChanges
from doceval_pipeline.domain.recurring import FileComparison
from doceval_pipeline.domain.series import (
    ChangedScore,
    ColumnResult,
    ContentChange,
    SeriesDrift,
    SeriesOccurrence,
)
from doceval_pipeline.domain.series import OccurrenceState as State
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.reports import svg
from doceval_pipeline.reports.series import (
    COLUMNS_SHOWN,
    OCCURRENCES_SHOWN,
    Series,
    render_series,
    series_markdown,
    series_numbers,
)
from doceval_pipeline.reports.svg import SeriesPlace

HOSTILE = '<img src=x onerror=alert(1)>"\u202e|`'
START = datetime(2026, 1, 1, 1, tzinfo=UTC)
STATES = [State.DONE] * 5 + [
    State.SKIPPED,
    State.NOT_MADE,
    State.HELD,
    State.ARCHIVED,
    State.OPEN,
]


def occurrence(place: int, columns: int = 1) -> SeriesOccurrence:
    state = STATES[place % len(STATES)]
    found = SeriesOccurrence(
        START + timedelta(days=place),
        state,
        None if state in (State.DONE, State.OPEN, State.ARCHIVED) else HOSTILE,
        FileComparison(1, 2, 3, 4),
        partition_key=f"batch-{place:06d}" if state not in (State.SKIPPED, State.NOT_MADE) else None,
        batch=HOSTILE,
    )
    if state is not State.DONE:
        return found
    drift = SeriesDrift(
        change=-20.0,
        p=0.01,
        now=8,
        before=40,
        is_paired=False,
        is_other_question=False,
        is_marked=place % 10 == 3,
    )
    result = ColumnResult(10, 1, 2, 9, 70.0 + place % 7, drift if place else None)
    return replace(
        found,
        cells=10 * columns,
        failed=columns,
        reused=2 * columns,
        succeeded=9 * columns,
        seconds=60.0,
        costs=(Cost(1.5, HOSTILE, 7, 1),),
        columns={(1, prompt): result for prompt in range(columns)},
    )


def series(occurrences: int, columns: int = 1, earlier: int = 0) -> Series:
    content = ContentChange(START, 1, "batch-000001", 2, 0, 1, HOSTILE)
    change = ChangedScore(content, (1, 0), 80.0, None, is_other_question=True)
    return Series(
        HOSTILE,
        "UTC",
        [occurrence(place, columns) for place in range(occurrences)],
        occurrences + earlier,
        {(1, prompt): (HOSTILE, f"prompt {prompt}") for prompt in range(columns)},
        ContentChanges([change], total=400, same=3, contents=500, looked_at=200),
        "d",
    )


def test_foreign_texts_are_only_text() -> None:
    for shown in (render_series(series(12)), series_markdown(series(12))):
        assert "<img" not in shown
        assert "\u202e" not in shown
    page = render_series(series(12))
    assert "<script" not in page
    assert "default-src &#39;none&#39;" in page
    assert "src=" not in page.replace("&lt;img src=", "")


def test_every_occurrence_is_there_with_its_reason_and_drift_in_words() -> None:
    page = render_series(series(10))
    assert page.count('<th scope="row"') == 10 + 5 + 1
    for state in ("done", "skipped", "not made", "held", "archived", "open"):
        assert f"<strong>{state}</strong>" in page
    assert page.count('<strong class="tag drift">DRIFT</strong>') == 1 + 2
    assert "its results are in the archive" in page
    assert "399 more changed scores are not shown" in page
    assert "500 files have new content; scores are compared for the newest 200" in page
    assert "400 scores changed, 3 did not." in page
    assert "not compared: no earlier scores to compare with" in page
    other = SeriesDrift(change=None, p=None, now=9, before=0, is_paired=False, is_other_question=True)
    results = [
        ColumnResult(9, 0, 9, 9, 70.0, None),
        ColumnResult(9, 9, 0, 0, None, None),
        ColumnResult(9, 0, 0, 9, 70.0, other),
    ]
    assert [result.not_compared for result in results] == [
        "all of its scores are reused",
        "it has no scores",
        "the prompt text or the connection changed",
    ]


def test_occurrences_skipped_in_a_row_for_one_reason_share_a_row_in_the_time_zone_of_the_evaluation() -> None:
    done = occurrence(0)
    skipped = replace(occurrence(5), reason="nothing is new")
    reasons = ["nothing is new"] * 3 + ["the one before is open"] + ["nothing is new"]
    nights = [done, *(replace(skipped, reason=reason) for reason in reasons), occurrence(1)]
    nights = [replace(o, due_at=START + timedelta(days=place)) for place, o in enumerate(nights)]
    page = render_series(replace(series(0, 1), occurrences=nights, total=7, timezone="Europe/Berlin"))
    occurrences = page[page.index('id="occurrences"') : page.index('id="changed"')]
    assert occurrences.count('<th scope="row"') == 5
    assert "<strong>3 skipped</strong>" in occurrences
    assert '2026-01-02 02:00 CET<br><span class="muted">to 2026-01-04 02:00 CET' in occurrences
    assert "UTC" not in page
    assert page.count("time zone <bdi>Europe/Berlin</bdi>") == 1


def test_only_another_question_breaks_the_line_of_a_series() -> None:
    def place(mean: float | None, is_other_question: bool = False) -> SeriesPlace:
        return SeriesPlace("<day>", "<b>", mean, 3, 0, 3, False, is_other_question, mean is None)

    def line(*places: SeriesPlace) -> str:
        drawn = ElementTree.fromstring(svg.series(places))
        return next(p.attrib["d"] for p in drawn.findall("path") if p.attrib["class"] == "line")

    assert line(place(None), place(70), place(None), place(None), place(80)).count("M") == 1
    assert line(place(70), place(80, True), place(90)).count("M") == 2
    # The question changed in an occurrence without any score.
    assert line(place(70), place(None, True), place(90)).count("M") == 2


def test_a_picture_has_a_title_and_a_description_and_is_well_formed() -> None:
    page = render_series(series(20))
    picture = page[page.index('<svg class="series"') : page.index("</svg>") + 6]
    drawn = ElementTree.fromstring(picture)
    assert drawn.attrib["role"] == "img"
    assert drawn.findtext("title") == "Mean scores of 10 of 20 occurrences, drift marked in 2"
    assert drawn.findtext("desc") == "From 70.0 to 70.0, lowest 70.0, highest 76.0"
    assert len(drawn.findall("circle")) == 8
    assert drawn.findtext("circle/title") == "2026-01-01 01:00 UTC: mean 70, 9 scores"
    labels = ["100", "50", "0", "failed", "2026-01-01", "2026-01-20", "70"]
    assert sorted(text.text or "" for text in drawn.findall("text")) == sorted(labels)
    assert len([path for path in drawn.findall("path") if path.attrib["class"] == "drift"]) == 2


def test_a_page_stays_small_however_long_the_series_is() -> None:
    page = render_series(series(400, columns=25, earlier=600))
    assert f"The newest {OCCURRENCES_SHOWN} are shown; 880 earlier ones are not." in page
    assert "5 more connections and prompts are not shown" in page
    assert page.count("<svg") == COLUMNS_SHOWN
    assert len(page) < 2_000_000
    assert len(series_markdown(series(400, columns=25, earlier=600))) < 100_000


def test_the_verdict_counts_what_it_is_based_on() -> None:
    assert series(10, earlier=990).verdict.startswith("1,000 occurrences; of the newest 10, 5 done, ")
    assert series(1).verdict == "1 occurrence, 1 done: nothing to compare with yet"
    assert series(3).verdict == "3 occurrences, 3 done: no drift"


def test_the_names_of_the_numbers_are_stable() -> None:
    assert series_numbers(series(10)) == {
        "occurrences": 10,
        "occurrences_read": 10,
        "occurrences_made": 8,
        "occurrences_skipped": 1,
        "occurrences_failed": 1,
        "occurrences_held": 1,
        "occurrences_archived": 1,
        "occurrences_drifted": 1,
        "cells": 50,
        "cells_succeeded": 45,
        "cells_failed": 5,
        "cells_reused": 10,
        "cells_simulated": 0,
        "contents_changed": 500,
        "scores_changed_with_content": 400,
        "newest_cells": 10,
        "newest_cells_failed": 1,
    }
    assert "There are no occurrences yet" in render_series(
        replace(series(0), columns={}, changes=ContentChanges())
    )
