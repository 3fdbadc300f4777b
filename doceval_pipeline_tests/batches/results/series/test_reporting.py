"""The series of a recurring evaluation equals the sums over its rows."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.results.score_drift import judge_drift
from doceval_pipeline.batches.results.series.reporting import gather_series, write_series
from doceval_pipeline.doc_eval.recurring.series import next_series, series_digests
from doceval_pipeline.doc_eval.recurring.stored import delete_recurring
from doceval_pipeline.domain.series import OccurrenceState as State
from doceval_pipeline.errors import UnknownRecurring
from doceval_pipeline.reports.series import Series
from doceval_pipeline_tests.batches.staging.nights import Nights


def gathered(nights: Nights) -> Series:
    return gather_series(nights.databases, nights.record)


def plain_rows(nights: Nights) -> dict[int, list[Any]]:
    rows = defaultdict(list)
    for row in nights.knowledge("SELECT * FROM current_llm_responses ORDER BY id"):
        rows[row.batch_id].append(row)
    return rows


def test_every_occurrence_has_the_figures_of_its_rows(databases: Databases, tmp_path: Path) -> None:
    nights = Nights(databases, tmp_path / "inbox", max_documents=6, scope="all", skip_if_nothing_new=True)
    files = {f"{n}.txt": f"document {n}" for n in range(5)}
    first = nights.night(files)
    nights.night()  # nothing is new
    second = nights.night({"0.txt": "another document", "5.txt": "document 5"})
    (tmp_path / "inbox").rename(tmp_path / "away")
    nights.night()  # the folder is away
    (tmp_path / "away").rename(tmp_path / "inbox")
    held = nights.night({f"{n}.txt": f"many {n}" for n in range(7)}, answer=None)
    series = gathered(nights)
    states = [occurrence.state for occurrence in series.occurrences]
    assert states == [
        State.DONE,
        State.SKIPPED,
        State.DONE,
        State.NOT_MADE,
        State.HELD,
    ]
    assert [o.reason is None for o in series.occurrences] == [True, False, True, False, False]
    assert "max_documents" in str(series.occurrences[4].reason)
    rows = plain_rows(nights)
    for occurrence, batch_id in ((series.occurrences[0], first), (series.occurrences[2], second)):
        own = rows[batch_id or 0]
        asked = [r for r in own if r.reused_batch_id is None]
        assert occurrence.cells == len(own)
        assert occurrence.succeeded == sum(r.status == "S" for r in own)
        assert occurrence.failed == sum(r.status == "F" for r in own)
        assert occurrence.reused == len(own) - len(asked)
        assert occurrence.processor_seconds == pytest.approx(sum(r.time_taken_seconds for r in asked))
        priced = [r for r in asked if r.input_tokens is not None]
        (cost,) = occurrence.costs
        assert cost.amount == pytest.approx(
            sum(r.input_tokens * 1e-3 + r.output_tokens * 2e-3 for r in priced)
        )
        assert (cost.cells, cost.unpriced) == (len(priced), len(asked) - len(priced))
        assert occurrence.columns is not None
        for (connection, prompt), point in occurrence.columns.items():
            scores = [
                r.overall_score
                for r in own
                if (r.connection_id, r.prompt_id) == (connection, prompt)
                and r.status == "S"
                and r.overall_score is not None
            ]
            assert point.scored == len(scores)
            assert point.mean == (pytest.approx(sum(scores) / len(scores)) if scores else None)
    assert series.occurrences[2].reused > 0
    assert held is not None
    assert series.occurrences[4].columns is None
    # One file changed its content; its scores are those of the two contents.
    assert (series.changes.contents, series.changes.looked_at) == (1, 1)
    # Files are stored several at a time: ids say nothing about their order.
    ((stored,),) = nights.doc_eval(
        "SELECT b.knowledge_document_id FROM batch_documents b JOIN documents d ON d.id = b.document_id "
        "WHERE b.batch_id = :first AND d.filepath = '0.txt'",
        first=first,
    )
    before = {
        r.prompt_id: r.overall_score for r in rows[first or 0] if r.document_id == stored and r.status == "S"
    }
    assert {c.column[1]: c.before for c in series.changes.documents if c.before is not None}.items() <= (
        before.items()
    )
    assert all(c.content.file == "0.txt" for c in series.changes.documents)


def test_a_result_that_is_reused_repeatedly_is_not_new_evidence(databases: Databases, tmp_path: Path) -> None:
    nights = Nights(
        databases, tmp_path / "inbox", prompts=("clarity",), scope="all", skip_if_nothing_new=False
    )
    constant = (
        "UPDATE llm_responses SET status = 'S', overall_score = {} WHERE batch_id = :id AND status = 'QUEUED'"
    )
    nights.night({f"{n}.txt": f"document {n}" for n in range(20)}, constant.format(90))
    nights.night(answer=constant.format(10))
    nights.night(answer=constant.format(10))
    series = gathered(nights)
    (column,) = series.columns
    points = [(o.columns or {})[column] for o in series.occurrences]
    assert [(p.reused, p.mean) for p in points] == [(0, 90), (20, 90), (20, 90)]
    assert [p.drift for p in points[1:]] == [None, None]
    assert [o.costs for o in series.occurrences[1:]] == [(), ()]
    # Asked again, every document is beside its own earlier score.
    nights.define(prompts=("clarity",), scope="all", skip_if_nothing_new=False, reuse="nothing")
    nights.night(answer=constant.format(10))
    drift = (gathered(nights).occurrences[3].columns or {})[column].drift
    assert drift is not None
    assert (drift.change, drift.is_paired, drift.now, drift.is_marked) == (-80, True, 20, True)


def digest_of_series(databases: Databases) -> str:
    with databases.doc_eval.connect() as connection:
        (found,) = series_digests(connection, 10, next_series(connection, 0, 10))
    return found.digest


def test_an_archived_occurrence_stays_in_the_series_without_results(
    databases: Databases, tmp_path: Path
) -> None:
    nights = Nights(databases, tmp_path / "inbox")
    first = nights.night({"a.txt": "a"})
    nights.night({"a.txt": "another a", "b.txt": "b"})
    before = digest_of_series(databases)
    archive(databases, first or 0, lambda *_: None, lambda *_: None)
    series = gathered(nights)
    assert [o.state for o in series.occurrences] == [State.ARCHIVED, State.DONE]
    assert series.changes.contents == 0, "the content before is in the archive"
    after = digest_of_series(databases)
    assert after != before, "its page is out of date"
    nights.define(timezone="Europe/London")
    elsewhere = digest_of_series(databases)
    assert elsewhere != after, "its page shows the time zone"
    staging = nights.night({"c.txt": "c"}, answer=None)
    begun = digest_of_series(databases)
    nights.doc_eval("UPDATE batches SET status = 'FAILED_STAGING' WHERE id = :id", id=staging)
    failed = digest_of_series(databases)
    assert failed != begun
    assert write_series(databases, "inbox").path == write_series(databases, "inbox").path


def test_a_hostile_name_is_absent_from_file_names_and_inert_on_the_page(
    databases: Databases, tmp_path: Path
) -> None:
    nights = Nights(databases, tmp_path / "inbox")
    nights.night({"a.txt": "a"})
    for name in ("../../x", "<script>alert(1)</script>", "\u202eevil", "n" * 200):
        # As somebody with rights on the table may write it; definitions are checked.
        nights.doc_eval("UPDATE recurring_evaluations SET name = :name", name=name)
        nights.name = name
        written = write_series(databases, name)
        page = written.path.read_text()
        assert written.path.parent == databases.settings.reports
        assert written.path.name.startswith(f"series-{nights.record.id:06d}-")
        assert "<script" not in page
        assert "\u202e" not in page


def test_a_series_without_occurrences_or_without_results_says_so(
    databases: Databases, tmp_path: Path
) -> None:
    nights = Nights(databases, tmp_path / "inbox")
    assert "There are no occurrences yet" in write_series(databases, "inbox").path.read_text()
    nights.night()
    (tmp_path / "inbox").rmdir()
    nights.night()
    written = write_series(databases, "inbox")
    assert written.series.verdict == "2 occurrences, 0 done, 1 skipped, 1 not made: no results to compare"
    assert "No occurrence has results yet" in written.path.read_text()
    with databases.doc_eval.begin() as connection:
        delete_recurring(connection, nights.record.id)
    with pytest.raises(UnknownRecurring, match="recurring evaluation 'inbox' does not exist"):
        write_series(databases, "inbox")


SCORED = """
    UPDATE llm_responses SET status = 'S', overall_score = {} WHERE batch_id = :id AND status = 'QUEUED'
"""


def report_of(nights: Nights, batch_id: int | None) -> str:
    """The words of the section on the previous occurrence; empty without the section."""
    written = write_report(nights.databases, batch_id or 0)
    page = written.path.read_text()
    if 'id="previous"' not in page:
        return ""
    return " ".join(re.split(r'<section id="|id="nothing"', page[page.index('id="previous"') :])[0].split())


def test_a_report_without_a_document_in_common_compares_samples_and_changed_contents(
    databases: Databases, tmp_path: Path
) -> None:
    nights = Nights(databases, tmp_path / "inbox", prompts=("clarity",), max_documents=9)
    nights.night({f"{n}.txt": f"document {n}" for n in range(8)}, SCORED.format(90))
    nights.night()  # skipped
    nights.night({f"x{n}.txt": f"many {n}" for n in range(10)}, answer=None)  # held
    now = nights.night(
        {"0.txt": "new content", **{f"y{n}.txt": f"more {n}" for n in range(8)}}, SCORED.format(20)
    )
    said = report_of(nights, now)
    assert "They share no documents" in said
    assert "2026-12-01 01:00 UTC: <code>batch-" in said
    assert "2 occurrences between the two have no results to compare: 2026-12-03 01:00 held" in said
    assert "2026-12-02 01:00 skipped (nothing is new or changed)" in said
    assert '>8</td> <td class="n">9</td> <td class="n"><strong>−70</strong>' in said
    assert "1 file has new content" in said
    assert '<bdi class="file">0.txt</bdi>' in said
    assert '<td class="n">90</td> <td class="n"><strong>20</strong></td> <td class="n">−70</td>' in said


def test_a_report_of_the_same_documents_compares_pairs_and_no_reused_result(
    databases: Databases, tmp_path: Path
) -> None:
    nights = Nights(
        databases, tmp_path / "inbox", prompts=("clarity",), scope="all", skip_if_nothing_new=False
    )
    first = nights.night({f"{n}.txt": f"document {n}" for n in range(6)}, SCORED.format(90))
    again = nights.night({"6.txt": "a new document"}, SCORED.format(20))
    said = report_of(nights, again)
    assert "They share 6 documents." in said
    assert "nothing to compare: all 6 results that both have are shared by reuse" in said
    assert said.count("ompared with") == 1
    assert "rose" not in said
    assert judge_drift(databases, again or 0).baseline == f"batch-{first:06d}"
    # What another batch asked since is another result, although this one only reuses it.
    keys: dict[str, Any] = {"prompts": ("clarity",), "scope": "all", "skip_if_nothing_new": False}
    elsewhere = Nights(databases, tmp_path / "inbox", name="elsewhere", reuse="nothing", **keys)
    elsewhere.night(answer=SCORED.format(10))
    nights.define(**keys)
    third = nights.night()
    assert "0 rose, 7 fell, 0 unchanged" in report_of(nights, third)
    assert judge_drift(databases, third or 0).baseline == f"batch-{again:06d}", "as in its report"
    nights.define(reuse="nothing", **keys)
    asked = nights.night(answer=SCORED.format(80))
    said = report_of(nights, asked)
    assert "They share 7 documents." in said
    assert "7 rose, 0 fell, 0 unchanged" in said


def test_the_first_occurrence_with_results_has_none_before_it(databases: Databases, tmp_path: Path) -> None:
    nights = Nights(databases, tmp_path / "inbox")
    nights.night()
    first = nights.night({"a.txt": "a"})
    assert report_of(nights, first) == ""
