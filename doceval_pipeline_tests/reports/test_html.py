"""The page of a report: its sentences, and that nothing in it runs or loads."""

import base64
import hashlib
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import emphasized, render_html
from doceval_pipeline.reports.matrix import ROWS_SHOWN
from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline.reports.sanitize import visible, visible_name
from doceval_pipeline_tests.reports.sample_reports import (
    HOSTILE,
    REPORTS,
    STARTED,
    cell,
    column,
    document,
    failed,
    full_report,
    hostile,
    hostile_input,
    report_input,
    skipped,
)

ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "nav", "article"),
    *("h1", "h2", "h3", "h4", "p", "br", "strong", "small", "i", "span", "bdi", "code", "pre", "a", "div"),
    *("ul", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "button", "details"),
    *("summary", "svg", "rect", "path", "circle", "input", "select", "option", "label", "script", "aside"),
}
ATTRIBUTES = {
    *(
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "id",
        "title",
        "aria-label",
        "aria-hidden",
    ),
    *("role", "tabindex", "scope", "colspan", "rowspan", "dir", "type", "href", "viewbox"),
    *("preserveaspectratio", "x", "y", "width", "height", "rx", "d", "cx", "cy", "r"),
    *("hidden", "data-name", "autocomplete", "spellcheck", "min", "max", "step", "inputmode", "value"),
    *("popover", "popovertarget", "popovertargetaction"),
}


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._pieces: list[str] = []
        self.feed(page)
        self.close()
        self.text = "".join(self._pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._pieces.append(" ")
        self.elements.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self._pieces.append(" ")

    def handle_data(self, data: str) -> None:
        self._pieces.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def render(data: ReportInput) -> str:
    return render_html(data, figures(data))


def said(data: ReportInput) -> str:
    """The text of a page, spaces made one."""
    return " ".join(Page(render(data)).text.split())


def assert_inert(page: Page) -> None:
    assert set(page.elements) <= ELEMENTS
    assert page.elements.count("script") == 1
    assert {name for _, name, _ in page.attributes} <= ATTRIBUTES
    assert all(re.fullmatch(r"#[a-z-]+", href) for href in page.values("href"))
    assert page.values("http-equiv") == ["Content-Security-Policy"]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("popovertarget")) <= set(ids)
    assert {href[1:] for href in page.values("href")} <= set(ids)


@pytest.mark.parametrize("data", [hostile_input(), hostile()], ids=["results", "insights"])
def test_hostile_texts_are_only_text(data: ReportInput) -> None:
    source = render(data)
    page = Page(source)
    assert_inert(page)
    source.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]", source)
    for text in HOSTILE:
        assert visible(text) in page.text
        assert visible_name(text) in page.values("title")


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=())))
def test_any_text_is_only_text(text: str) -> None:
    data = report_input(
        [document(1, name=text, folder=text), document(1, name="twin", folder="other"), skipped(text, text)],
        [replace(column(), connection=text, prompt=text)],
        [failed(1, text, response_text=text, status=text)],
        name=text,
        description=text,
        config={"prompts": [{"name": text, "text": text}]},
    )
    page = Page(render(data))
    assert_inert(page)
    # A parser reads no line end of the page as anything else: all of them are \n.
    assert visible(text) in page.text


def test_the_policy_allows_the_style_sheet_and_the_script_of_the_page_and_nothing_else() -> None:
    source = render(report_input())
    style, script = (_only(source, element) for element in ("style", "script"))
    policy = next(value for value in Page(source).values("content") if "default-src" in value)
    assert policy == (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style


def test_the_script_makes_nothing_of_texts() -> None:
    script = _only(render(report_input()), "script")
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval", "Function", "fetch"):
        assert word not in script


def _only(source: str, element: str) -> str:
    """The content of the only element of this name."""
    (inside,) = re.findall(f"<{element}>(.*?)</{element}>", source, re.DOTALL)
    assert isinstance(inside, str)
    return inside


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def test_the_same_input_gives_the_same_bytes() -> None:
    assert render(hostile()) == render(hostile())


def test_the_page_says_what_the_scores_decide_before_how_the_batch_ended_and_before_any_table() -> None:
    data = full_report([document(1), document(2)], [column()], [cell(1), failed(2)])
    text = said(data)
    places = [
        text.index(words)
        for words in (
            "For prompt-1, model-1 scores 80 on average over 1 document",
            "Complete with failures : 1 of 2 evaluations failed",
            "one evaluation = one document × one prompt × one model: 2 × 1 × 1",
            "Mean score",
            "Retry exactly these",
            "Each row is a file",
        )
    ]
    assert places == sorted(places)


def test_a_mean_says_over_how_many_documents_it_is() -> None:
    data = full_report([document(1), document(2), document(3)], [column()], [cell(1, score=0.0), failed(2)])
    assert "0 no interval, n = 1" in said(data)
    assert "1 failed, 1 without a result" in said(data)


def test_cells_say_score_failure_and_what_is_open() -> None:
    documents = [document(n) for n in range(1, 9)]
    cells = [
        cell(1, score=0.0),
        cell(2, score=None),
        failed(3, "quota exceeded"),
        failed(4, None),
        failed(5, None, outcome="waiting", status="QUEUED"),
        failed(6, None, outcome="running", status="P"),
        failed(7, None, outcome="other", status="HALF_DONE"),
    ]
    page = Page(render(report_input(documents, [column()], cells)))
    text = " ".join(page.text.split())
    shown = ("0", "✓", "✕ failed", "✕ failed", "○ waiting", "◐ running", "? HALF_DONE", "– missing")
    for number, words in enumerate(shown, 1):
        assert f"file-{number}.pdf 2.0 KiB {words}" in text
    assert {"failed: quota exceeded", "failed: no message", "unknown (HALF_DONE)"} <= set(
        page.values("title")
    )
    assert "The evaluation failed without a message." in text


def test_a_duplicate_shows_the_result_of_its_twin_and_says_so() -> None:
    data = report_input([document(1), document(1, name="copy.pdf")], [column()], [cell(1, score=77.0)])
    page = Page(render(data))
    text = " ".join(page.text.split())
    assert "copy.pdf same content as file-1.pdf 77" in text
    assert "Files with the same content are evaluated once" in text
    assert page.values("popovertarget").count("r1-1-1") == 3
    assert_inert(page)


def test_unlisted_rows_and_columns_are_shown() -> None:
    text = said(report_input([document(1)], [column()], [cell(1), cell(9, 7, 7, score=12.5)]))
    assert "document 9 no file in this batch – missing 12.5" in text
    assert "1 row exists beyond the 1 expected" in text


def test_too_many_documents_are_cut_failures_first_and_the_rest_is_counted() -> None:
    count = ROWS_SHOWN + 100
    cells = [cell(n) for n in range(count - 2)] + [failed(count - 2), failed(count - 1, outcome="waiting")]
    data = report_input([document(n) for n in range(count)], [column()], cells)
    page = Page(render(data))
    text = " ".join(page.text.split())
    assert f"The table shows {ROWS_SHOWN:,} of {count:,} documents" in text
    assert "every figure also counts the other 100" in text
    rows = re.findall(r"file-(\d+)\.pdf 2\.0 KiB", text)
    assert len(rows) == ROWS_SHOWN
    assert rows[:3] == [str(count - 2), str(count - 1), "0"]


def test_a_long_response_is_cut_and_the_rest_is_counted() -> None:
    source = render(report_input([document()], [column()], [cell(response_text="<" * 2**24)]))
    assert len(source) < 100_000
    assert f"{2**24 - 2_000:,} more characters are left out here." in source


def test_many_long_responses_do_not_make_a_page_that_no_browser_opens() -> None:
    cells = [cell(n, c, response_text="x" * 2_000) for n in range(1_000) for c in range(10)]
    data = report_input([document(n) for n in range(1_000)], [column(c) for c in range(10)], cells)
    assert len(render(data)) < 4_000_000


@pytest.mark.slow
def test_a_thousand_cells_take_up_no_more_than_two_megabytes_whatever_they_say() -> None:
    keys = [(n, c) for n in range(100) for c in range(10)]
    for text in ("x" * 2_000, "界" * 2_000, '"' * 2_000):
        rows = [cell(n, c, response_text=text, error=text) for n, c in keys]
        data = full_report([document(n) for n in range(100)], [column(c) for c in range(10)], rows)
        assert len(render(data).encode()) <= 2_000_000


def test_short_texts_stand_whole_beside_long_ones() -> None:
    files = [document(n) for n in range(1_000)]
    rows = [cell(n, response_text="short and whole" if n % 2 else "x" * 2_000) for n in range(1_000)]
    source = render(report_input(files, [column()], rows))
    assert source.count("short and whole</pre></div>") == 500
    assert source.count("more characters are left out here") == 500


def test_long_lists_are_cut_and_the_rest_is_counted() -> None:
    files = [document(n) for n in range(60)] + [skipped(f".hidden-{n}") for n in range(70)]
    data = report_input(files, [column()], [failed(n) for n in range(60)])
    text = said(data)
    assert "60 evaluations of 60 documents overloaded" in text
    assert "file-49.pdf and 10 more" in text
    assert ".hidden-49 and 20 more" in text


def test_many_different_messages_are_cut_and_the_rest_is_counted() -> None:
    cells = [failed(n, "overloaded" + "!" * n) for n in range(60)]
    assert "10 more kinds of messages are not shown" in said(report_input([], [column()], cells))


def test_the_known_base64_error_is_explained() -> None:
    data = report_input(
        [document(1, size=2_000_000)], [column()], [failed(1, "Invalid base64-encoded string")]
    )
    assert "The stored data is correct. The known processor cuts base64 at 1,398,101 characters" in said(data)


def test_a_file_that_is_not_staged_yet_is_a_row_and_is_counted() -> None:
    files = [document(1), document(2, state="ASSIGNED", document_id=None)]
    text = said(report_input(files, [column()], [cell(1)]))
    assert "file-2.pdf not staged yet – missing" in text
    assert "in 1 file; 1 more not staged yet" in text


def test_skipped_files_stand_with_their_reason() -> None:
    text = said(report_input([skipped("a.tmp", "excluded by *.tmp"), skipped("b", "empty", "REJECTED")]))
    assert "1 rejected: empty b" in text
    assert "1 skipped: excluded by *.tmp a.tmp" in text


def test_configuration_and_provenance_are_in_the_page() -> None:
    data = report_input(config={"prompts": [{"name": "p", "text": "Score <it>"}, "odd"], "z": 1})
    text = said(data)
    assert "Prompt p Score <it>" in text
    assert '"z": 1' in text
    for value in (data.config_sha256, data.digest, data.partition_key, "doceval_pipeline 0.1.0"):
        assert value in text


def test_a_configuration_of_an_unknown_shape_is_still_shown() -> None:
    assert '"prompts": null' in said(report_input(config={"prompts": None}))


def test_simulated_results_are_marked_wherever_they_show() -> None:
    page = render(full_report([document()], [column()], [cell(simulated=True)]))
    text = " ".join(Page(page).text.split())
    assert "Simulated results: no LLM was called" in text
    assert "<title>SIMULATED · " in page
    for place in (
        "the only evaluation succeeded",
        "Cost of this batch",
        "Leaderboard",
        "Change since the latest overlapping batch",
        "Results",
        "File",
    ):
        assert f"{place} simulated" in text
    assert "80 sim" in text
    assert "SIMULATED, score 80" in page


def test_real_results_are_not_marked_as_simulated() -> None:
    body = render(report_input([document()], [column()], [cell()])).split("</style>")[1]
    assert "simulated" not in body.lower()


def test_a_mixture_says_which_cells_are_simulated() -> None:
    data = report_input([document(1), document(2)], [column()], [cell(1, simulated=True), cell(2)])
    text = said(data)
    assert "no LLM was called for 1 of 2 evaluations; they are marked “sim”" in text
    assert "file-1.pdf 2.0 KiB 80 sim" in text
    assert "file-2.pdf 2.0 KiB 80 sim" not in text


def test_times_are_shown_in_utc_whatever_their_zone() -> None:
    data = report_input(
        started_at=STARTED.astimezone(timezone(timedelta(hours=5))),
        completed_at=datetime(2026, 11, 23, 11, 5),
    )
    text = said(data)
    assert "Started 2026-11-23 09:00 UTC completed 2026-11-23 11:05 UTC" in text
    assert "took 2 h 05 min" in text


def test_what_an_empty_batch_has_no_data_for_is_one_line() -> None:
    page = render(report_input(started_at=None, completed_at=None, created_at=None, config={}))
    text = " ".join(Page(page).text.split())
    assert "Nothing evaluated : no evaluation was expected, and none exists" in text
    assert (
        "Nothing to show for: leaderboard, failures, results, distribution of scores, disagreement between "
        "connections, agreement between connections, change since an earlier batch, throughput, reprocessed "
        "evaluations, files left out, reused results." in text
    )
    assert text.count("Nothing to show") == 1
    assert "Dagster runs unknown" in text
    assert "<table" not in page
    sections = re.findall('<section id="([^"]+)"', page)
    assert sections == ["integrity", "configuration", "provenance"]


def test_sections_come_in_the_order_in_which_people_decide() -> None:
    page = render(REPORTS["below-thresholds"]())
    assert re.findall('<section id="([^"]+)"', page) == [
        *("leaderboard", "thresholds", "failures", "matrix", "distributions", "disagreements", "agreement"),
        *("previous", "throughput", "reprocessed", "left-out", "integrity", "configuration", "provenance"),
    ]


def test_every_section_with_data_is_in_the_navigation() -> None:
    for make in REPORTS.values():
        page = render(make())
        (navigation,) = re.findall("<nav.*?</nav>", page, re.DOTALL)
        found = re.findall('href="#([^"]+)"', navigation)
        assert [*found, "integrity", "configuration", "provenance"] == re.findall(
            '<section id="([^"]+)"', page
        )


def test_no_path_of_the_server_is_on_the_page() -> None:
    files = [
        document(1, folder="/srv/secret-mount/legal/contracts"),
        document(2, name="b.pdf", folder="/srv/secret-mount/sales/contracts"),
        skipped("x.tmp"),
    ]
    data = full_report(files, [column()], [cell(1), failed(2)])
    page = render(data)
    assert "secret-mount" not in page
    assert "/data/" not in page
    text = " ".join(Page(page).text.split())
    assert "legal/contracts/file-1.pdf" in text
    assert "sales/contracts/b.pdf" in text
    assert "Folder paths are left out here" in text


def test_a_run_is_named_once_with_all_that_it_made() -> None:
    text = said(REPORTS["8-cells"]())
    run = "0badcafe-1f2e-4d3c-8b9a-0123456789ab"
    assert text.count(run) == 1
    assert (
        "Dagster run of batch_config_snapshot, document_assignment, encoded_documents, queue_rows " + run
        in text
    )


def test_a_model_with_two_connections_is_called_a_connection() -> None:
    data = REPORTS["8-cells"]()
    connections = [item | {"model_name": "one"} for item in data.config["connections"]]
    text = said(replace(data, config=data.config | {"connections": connections}))
    assert "one evaluation = one document × one prompt × one connection" in text
    assert "Agreement between connections" in text
    assert "Agreement between models" in said(data)


def test_words_beside_a_name_keep_their_place_and_cannot_become_elements() -> None:
    marked = emphasized("For <b>, מודל scores 6.7 points higher than b (about 3 more documents would tell).")
    assert marked == (
        "For &lt;b&gt;, <bdi>מודל</bdi> scores <strong>6.7 points higher</strong> than b "
        '<span class="muted">(about 3 more documents would tell)</span>.'
    )


@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_a_sentence_keeps_its_text_whatever_stands_out(text: str) -> None:
    said = Page(f"<p>{emphasized(text)}</p>")
    assert set(said.elements) <= {"p", "strong", "span", "bdi"}
    assert "".join(visible(text).split()) == "".join(said.text.split())
