"""Text that others wrote, from the processor's function to every place that shows it: exact in the data,
inert wherever a person reads it."""

import hashlib
import time
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.settings import MIB
from doceval_pipeline_tests.cli.running import doceval, read_json
from doceval_pipeline_tests.conftest import Sample, write_old
from doceval_pipeline_tests.defs.running import run
from doceval_pipeline_tests.knowledge.processing import call, claim

LARGE = 16 * MIB
HOSTILE = (
    "<script>window.ran = 1</script><img src='http://evil.invalid/a.png' onerror='window.ran = 1'>",
    "![x](http://evil.invalid/b.png) [y](javascript:window.ran=1) <http://evil.invalid> www.evil.invalid",
    "</td></table></style><iframe src=//evil.invalid><base href=//evil.invalid><form action=//e.example>",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07 \x1b]8;;http://evil.invalid\x1b\\click\x1b]8;;\x1b\\ \x9b31m",
    "approved\u202edetcejer\u2066x\u2069 \u200b\u00ad\ufeff\u2028next",
    "{{ 7 * 7 }}{% raw %}{{ config }}{# gone #} %(x)s {0} $HOME `id`",
    '=HYPERLINK("http://evil.invalid") +1 -1 @SUM(1) \'; DROP TABLE docs; --',
    "]]>--><!-- &lt;b&gt; &#60;script&#62; \\u003cscript\\u003e \\x3c",
    "a" + "\u0301" * 5_000 + "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 500,
    "[bold red]markup[/] [link=http://evil.invalid]x[/link]",
)
# What Dagster's markdown, its links and a browser would act on.
ACTIVE = ("<script", "<img", "<iframe", "](http", "](javascript", "<http", "http://evil", "\x1b", "\u202e")
CONNECTION = "![c](http://evil.invalid/c.png) <b>|`x` [bold]"
PROMPT = "[p](javascript:alert(1)) www.evil.invalid"
BATCH = "<img src=x onerror=alert(1)> [red]![b](http://evil.invalid/b.png)"


class Page(HTMLParser):
    """What a browser makes of a page: its elements, and attributes that load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.active: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            loads = name in ("src", "href", "action", "data", "srcset") and not (value or "").startswith("#")
            if loads or name.startswith("on"):
                self.active.append((name, value or ""))


@pytest.fixture
def answered(databases: Databases, tmp_path: Path) -> Sample:
    """A batch with hostile names, each of whose documents has a hostile response or reason, one of 16 MiB."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(2 * len(HOSTILE) + 1):
        write_old(folder / f"{number:02} ![n](http:evil.invalid) <b>.txt", f"document {number}")
    content = {
        "connections": [{"name": CONNECTION, "provider": CONNECTION, "model": CONNECTION}],
        "prompts": [{"name": PROMPT, "text": "\n".join(HOSTILE)}],
        "batches": [
            {
                "name": BATCH,
                "description": "\n".join(HOSTILE),
                "folders": [str(folder)],
                "connections": [CONNECTION],
                "prompts": [PROMPT],
                "metadata": {text: text for text in HOSTILE},
            }
        ],
    }
    located = locate(content, None, key_path)
    numbers = apply_evaluation(databases.doc_eval, located).numbers
    batch = Sample(databases, numbers[BATCH], BATCH, folder)
    batch.stage()
    claimed = claim(databases.knowledge, rows=100)
    for row, text in zip(claimed, [*HOSTILE, *HOSTILE], strict=False):
        if row.id % 2:
            call(databases.knowledge, "complete", row.token, 50, response_text=text, response_json=text)
        else:
            call(databases.knowledge, "fail", row.token, text, response_text=text)
    call(databases.knowledge, "complete", claimed[-1].token, 0, response_text=large_response())
    poll(databases)
    return batch


def large_response() -> str:
    return (HOSTILE[0] * (LARGE // len(HOSTILE[0]) + 1))[:LARGE]


def test_what_a_processor_wrote_is_kept_to_the_last_character(answered: Sample) -> None:
    rows = answered.knowledge("SELECT response_text, response_json, error_message, status FROM llm_responses")
    texts = {row.response_text for row in rows}
    assert texts == {*HOSTILE, large_response()}
    assert {row.error_message for row in rows if row.status == "F"} <= set(HOSTILE)
    assert {row.response_json for row in rows if row.response_json is not None} <= set(HOSTILE)
    ((digest, size),) = answered.knowledge(
        "SELECT encode(sha256(convert_to(response_text, 'UTF8')), 'hex'), length(response_text) "
        "FROM llm_responses ORDER BY length(response_text) DESC NULLS LAST LIMIT 1"
    )
    assert (digest, size) == (hashlib.sha256(large_response().encode()).hexdigest(), LARGE)


def test_the_report_loads_nothing_and_runs_only_its_own_and_stays_small(answered: Sample) -> None:
    began = time.monotonic()
    path = write_report(answered.databases, answered.id).path
    assert time.monotonic() - began < 20
    text = path.read_text(encoding="utf-8")
    assert len(text) < 2 * MIB
    page = Page(text)
    assert page.active == []
    assert text.count("<script") == 1, "the page's own"
    assert page.elements & {"img", "iframe", "base", "form", "object", "embed", "link"} == set()
    assert not {char for char in text if char < " " and char != "\n"} | ({*text} & {*"\u202e\u2066\u200b"})


def test_commands_show_nothing_that_a_terminal_acts_on(answered: Sample) -> None:
    for command in (["status"], ["status", str(answered.id)], ["documents", str(answered.id)]):
        shown = doceval(*command)
        assert shown.returncode == 0, shown.stderr
        assert {char for char in shown.stdout if not char.isprintable()} == {"\n"}
        assert not command[1:] or "![n]" in shown.stdout or "[red]" in shown.stdout
    (found,) = read_json("status", str(answered.id))
    assert found["name"] == BATCH


def test_dagster_is_told_nothing_that_its_pages_act_on(
    answered: Sample, instance: dg.DagsterInstance
) -> None:
    """Only text that is shown as text, and numbers; what is markdown holds no text of others unescaped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [run(instance, job, answered.key) for job in ("stage_batch", "report_batch")]
        assert all(result.success for result in results)
        shown = [text for result in results for text in markdown_of(result)]
        runs = [instance.get_run_by_id(result.run_id) for result in results]
    assert len(shown) >= 2
    for text in shown:
        assert [
            sign for sign in ACTIVE if sign in text.lower().replace("![scores and outcomes](data:", "")
        ] == []
    assert not any(sign in str(found.tags) for found in runs if found for sign in ACTIVE)


def markdown_of(result: dg.ExecuteInProcessResult) -> list[str]:
    """All metadata of a run that Dagster draws as markdown."""
    found = []
    for event in result.all_events:
        entries: dict[str, Any] = {}
        if event.is_step_materialization:
            entries |= event.step_materialization_data.materialization.metadata
        found += [
            str(value.value) for value in entries.values() if isinstance(value, dg.MarkdownMetadataValue)
        ]
    return found


@pytest.mark.parametrize("text", ["a\0b", "\0", "x" * 100 + "\0"])
def test_a_nul_is_told_to_the_processor_and_changes_nothing(
    batch_of: Callable[..., Sample], text: str
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    (row,) = claim(batch.databases.knowledge)
    with pytest.raises((DBAPIError, ValueError), match="NUL"):
        call(batch.databases.knowledge, "complete", row.token, 1, response_text=text)
    assert batch.knowledge("SELECT status, response_text FROM llm_responses") == [("P", None)]
    assert call(batch.databases.knowledge, "complete", row.token, 1, response_text="without")[0]


NONSENSE = (
    "time_taken_seconds = 'NaN'",
    "time_taken_seconds = 'Infinity'",
    "time_taken_seconds = '-Infinity'",
    "time_taken_seconds = 1e308",
    "time_taken_seconds = -5",
    "time_taken_seconds = -1e10",
    "time_taken_seconds = 1e10",
    "input_tokens = -5, output_tokens = -2147483648",
    "input_tokens = 2147483647, output_tokens = 2147483647",
    "response_time_ms = -2147483648",
    "tokens_per_second = 'NaN'",
    "tokens_per_second = '-Infinity'",
    "started_processing_at = 'infinity'",
    "started_processing_at = '4000-01-01 BC'",
    "completed_processing_at = '-infinity'",
    "completed_processing_at = '200000-01-01'",
    "\"timestamp\" = 'infinity'",
    "error_message = repeat('x', 1000000)",
)


def test_numbers_and_times_that_make_no_sense_keep_no_report_and_no_estimate_from_being_made(
    batch_of: Callable[..., Sample],
) -> None:
    batch = batch_of(documents=len(NONSENSE), connections=1, prompts=1)
    batch.stage()
    rows = [row for (row,) in batch.knowledge("SELECT id FROM llm_responses ORDER BY id")]
    for word in ("P", "S"):
        for row, nonsense in zip(rows, NONSENSE, strict=True):
            batch.knowledge(f"UPDATE llm_responses SET status = '{word}', {nonsense} WHERE id = {row}")
        poll(batch.databases)
        assert doceval("status", str(batch.id)).returncode == 0
        assert write_report(batch.databases, batch.id).path.stat().st_size < MIB
        assert doceval("plan", str(batch.id), "--all").returncode == 0
    assert batch.status() == "COMPLETED"
