"""Output goes anywhere: to a full disk, into pipes that nobody reads, to narrow terminals; nothing is cut."""

import io
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.cli import cli, output
from doceval_pipeline.cli.bars import ProgressBars
from doceval_pipeline.cli.streams import LastingStream
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline_tests.cli.redirected import Ended, run_redirected
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, write_evaluation
from doceval_pipeline_tests.conftest import Sample, write_old

BatchOf = Callable[..., Sample]
KINDS = ("full", "pipe", "closed")
LINES = {
    "full": "cannot write the output: No space left on device\n",
    "pipe": "",
    "closed": "cannot write the output: it is closed\n",
}
CODES = {"full": 1, "pipe": 141, "closed": 1}


def finished(batch: Sample, status: str = "S") -> Sample:
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = :status, overall_score = 50, response_text = 'yes' "
        "WHERE batch_id = :id",
        status=status,
    )
    poll(batch.databases)
    write_report(batch.databases, batch.id)
    return batch


@pytest.mark.parametrize("kind", KINDS)
def test_help_of_every_command_and_the_version_say_when_they_cannot_be_written(kind: str) -> None:
    commands = [["--help"], ["--version"], *([name, "--help"] for name in cli.commands)]
    assert run_redirected(kind, commands) == [Ended(CODES[kind], LINES[kind])] * len(commands)


def invocations(folder: Path) -> dict[str, list[str]]:
    """For each command one that is valid, and as cheap as it can be, in an order in which all of them are."""
    return {
        "init": [],
        "env": [],
        "up": ["--help"],
        "down": ["--help"],
        "demo": ["--help"],
        "conformance": ["--help"],
        "apply": [str(folder / "evaluation.yaml")],
        "stage": ["new"],
        "pause": ["new"],
        "resume": ["new"],
        "cancel": ["new"],
        "reprocess": ["new", "--all"],
        "try": ["one", "--documents", "1", "--seed", "1"],
        "simulate-processor": ["--until-empty", "--latency", "0"],
        "status": [],
        "documents": ["one"],
        "list": [],
        "failures": ["one"],
        "leaderboard": ["one"],
        "report": ["one"],
        "check": [],
        "plan": ["one"],
        "compare": ["one", "--prompts", "prompt-0", "prompt-1"],
        "export": ["one", "--output", str(folder / "one.csv")],
        "open": ["one"],
        "docs": [],
        "recurring": ["list"],
        "archive": ["two"],
        "restore": ["the file that archive writes"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_does_its_work_and_says_that_its_output_is_lost(
    kind: str, batch_of: BatchOf, tmp_path: Path
) -> None:
    finished(batch_of(documents=1, name="one"))
    two = finished(batch_of(documents=1, name="two"))
    write_evaluation(tmp_path, "new", documents=1)
    commands = invocations(tmp_path)
    assert set(commands) == set(cli.commands), "a command that this test does not know"
    *others, _ = ([name, *rest] for name, rest in commands.items())
    ended = run_redirected(kind, others, BROWSER="true %s", PYTHONWARNINGS="ignore")
    (archive,) = two.databases.settings.archives.glob(f"{two.key}*.zip")
    ended += run_redirected(kind, [["restore", str(archive)]])
    wrong = {
        name: one
        for name, one in zip(commands, ended, strict=True)
        # Notes for people come before, on standard error.
        if one.code != CODES[kind] or not one.said.endswith(LINES[kind]) or "Traceback" in one.said
    }
    assert wrong == {}
    states = dict(
        two.doc_eval(
            "SELECT batch_name, archived_at IS NULL FROM batches WHERE batch_name NOT LIKE '% try %'"
        )
    )
    assert states == {"one": True, "two": True, "new": True}
    assert (tmp_path / "one.csv").stat().st_size > 0
    # Staged, cancelled, queued anew, and answered by the simulated processor.
    assert two.knowledge("SELECT count(*) FROM current_llm_responses WHERE status = 'QUEUED'") == [(0,)]


def test_batches_are_staged_to_their_end_where_nothing_can_be_printed(
    batch_of: BatchOf, databases: Databases
) -> None:
    batches = [batch_of(documents=1, name=name) for name in ("a", "b")]
    assert run_redirected("full", [["stage", "a", "b"]]) == [Ended(1, LINES["full"])]
    assert [batch.status() for batch in batches] == ["STAGED", "STAGED"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_to_an_output_that_cannot_be_written_ends_at_once_in_one_line(
    kind: str, batch_of: BatchOf
) -> None:
    finished(batch_of(documents=1, name="one"))
    (ended,) = run_redirected(kind, [["export", "one", "--format", "jsonl", "--output", "-"]])
    assert (ended.code, ended.said.count("\n")) == (CODES[kind], 0 if kind == "pipe" else 1)


def test_a_watch_tells_a_pipe_each_change_and_ends_with_its_reader(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    command = [DOCEVAL, "status", batch.name, "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert watch.stdout.readline() == f"{batch.key} STAGED 0 of 4 evaluations, 0 failed\n"
        batch.knowledge(
            "UPDATE llm_responses SET status = 'F' WHERE id IN (SELECT min(id) FROM llm_responses)"
        )
        assert watch.stdout.readline().startswith(f"{batch.key} STAGED 1 of 4 evaluations, 1 failed")
        watch.stdout.close()
        assert (watch.wait(30), watch.stderr.read()) == (141, "")


TABLE = (("batch", "name", "status", "cells", "problem"), "of everything")
ROWS = [
    ("batch-000001", "契約書の評価🎉四半期", "FAILED_STAGING", 1_234_567, "a reason that is rather long"),
    ("batch-000002", "plain", "COMPLETED", 5, None),
    ("batch-000003", "[bold]" + "x" * 70, "SAVED", 0, "e\u0301👩‍💻é"),
]


def printed(monkeypatch: pytest.MonkeyPatch, width: int, is_terminal: bool = True) -> str:
    columns, title = TABLE
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=is_terminal, no_color=True, soft_wrap=True)
    monkeypatch.setattr(output, "console", console)
    monkeypatch.setattr(console, "_color_system", None)
    output.print_table(columns, ROWS, title)
    return file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 79, 80, 100, 200])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_of_a_table_is_cut(monkeypatch: pytest.MonkeyPatch, width: int, is_terminal: bool) -> None:
    shown = printed(monkeypatch, width, is_terminal)
    assert "…" not in shown
    # A name that folds is in pieces, which nothing of other columns separates in a paragraph.
    wanted = [str(value) for row in ROWS for value in row if isinstance(value, str) and cell_len(value) < 15]
    assert [value for value in (*wanted, "1,234,567") if value not in shown] == []
    assert shown.count("x") == 70
    if is_terminal and width >= 80:
        assert max(map(cell_len, shown.splitlines())) <= width


def test_wide_characters_leave_the_columns_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, 200).splitlines()
    places = [
        cell_len(line[: line.index(word)])
        for line, word in zip(lines[1:4], ("status", "FAILED", "COMPLETED"), strict=True)
    ]
    assert len(set(places)) == 1, lines


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_nothing_of_a_bar_is_cut(width: int) -> None:
    # As ours are, which wrap nothing by themselves.
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, soft_wrap=True)
    words = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"))
    bars = ProgressBars(*words, console=console)
    bars.add_task("batch-000001 ANALYZING", total=10, completed=3, done="1,234 of 5,678 cells, 12 failed")
    bars.add_task("hidden", total=1, done="", visible=False)
    with console.capture() as captured:
        console.print(bars)
    lines = captured.get().splitlines()
    assert max(map(cell_len, lines)) <= width
    said = " ".join(captured.get().split())
    for word in ("batch-000001 ANALYZING", "1,234 of 5,678 cells, 12 failed", "and 1 more"):
        assert all(part in said for part in word.split())
    assert "━" in said


def test_a_sentence_about_many_batches_is_one_line() -> None:
    equal = [(f"batch-{number:06}", "folder /x does not exist") for number in range(1, 301)]
    waiting = [(f"b{number}", f"{number:,} rows waiting for {number} s") for number in range(999, 1_003)]
    few = [(name, "paused: see run 0a1b2c3d") for name in ("x", "y", "z")]
    assert list(output.grouped([*few, *equal, *waiting])) == [
        *(f"{name}: paused: see run 0a1b2c3d" for name in ("x", "y", "z")),
        "300 batches (batch-000001, batch-000002, batch-000003 and 297 more): folder /x does not exist",
        "4 batches (b999, b1000, b1001 and 1 more): the first: 999 rows waiting for 999 s",
    ]


def test_apply_and_status_name_the_batches_of_a_note_that_many_share(
    databases: Databases, tmp_path: Path
) -> None:
    evaluation = write_evaluation(tmp_path, "n1")
    content = json.loads(evaluation.read_text())
    content["batches"] = [{**content["batches"][0], "name": f"n{number}"} for number in range(1, 6)]
    evaluation.write_text(json.dumps(content))
    applied = CliRunner().invoke(cli, ["apply", str(evaluation)])
    with databases.doc_eval.connect() as connection:
        first, second, third = map(
            partition_key, connection.scalars(text("SELECT id FROM batches ORDER BY id LIMIT 3"))
        )
    shared = f"5 batches ({first}, {second}, {third} and 2 more): "
    assert applied.stderr.splitlines() == [
        f"{shared}with 3 documents no difference between models will show; 5 points take about 73 documents"
    ]
    with databases.doc_eval.begin() as connection:
        connection.execute(text("UPDATE batches SET status = 'FAILED_STAGING', failure_reason = 'no disk'"))
    shown = CliRunner().invoke(cli, ["status"])
    assert f"{shared}no disk" in shown.stderr.splitlines()
    assert shown.stderr.count("no disk") == 1
    read = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)
    assert [batch["reason"] for batch in read] == ["no disk"] * 5


@pytest.mark.parametrize("kind", ["terminal-20", "terminal-40", "terminal-200"])
def test_in_a_terminal_of_any_width_commands_show_every_word(
    kind: str, batch_of: BatchOf, tmp_path: Path
) -> None:
    batch = finished(batch_of(documents=1, name="one"), "F")
    name = "a-file-with-a-name-that-no-narrow-terminal-holds.txt"
    write_old(batch.folder / name, "b")
    batch.doc_eval("UPDATE batches SET failure_reason = 'a reason of many words that fold anywhere'")
    shown = run_redirected(kind, [["status"], ["documents", "one"], ["plan", "one", "--rescan"], ["check"]])
    assert [ended.code for ended in shown] == [0, 0, 0, 0]
    texts = ["".join(ended.said.split()) for ended in shown]
    assert "areasonofmanywordsthatfoldanywhere" in texts[0]
    assert "COMPLETED" in texts[0] or "FAILED" in texts[0]
    assert "000.txt" in texts[1]
    assert "everyinvariantholds" in texts[3]
    assert [text for text in texts if "…" in text] == []


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("80", "80"),
        ("1", "20"),
        *(
            (odd, None)
            for odd in (
                "0",
                "-5",
                "abc",
                "²",
                "٣",
                "9" * 5000,
                "0" * 8 + "1" + "0" * 5000,
                "10001",
                "",
                "8 0",
            )
        ),
    ],
)
def test_a_width_that_no_terminal_has_is_not_used(
    monkeypatch: pytest.MonkeyPatch, given: str, used: str | None
) -> None:
    monkeypatch.setenv("COLUMNS", given)
    assert output._environment().get("COLUMNS") == used
    assert 0 < Console(_environ=output._environment()).width <= output.WIDEST_TERMINAL


def test_a_stream_waits_for_room_in_a_pipe_that_does_not_block() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = LastingStream(writer)
    read: list[bytes] = []

    def read_all() -> None:
        while piece := os.read(reader, 65536):
            read.append(piece)

    thread = threading.Thread(target=read_all)
    buffered = io.BufferedWriter(stream)
    thread.start()
    buffered.write(b"x" * 1_000_000)
    buffered.flush()
    os.close(writer)
    thread.join()
    os.close(reader)
    assert (len(b"".join(read)), stream.failure) == (1_000_000, None)


def test_standard_error_that_cannot_be_written_changes_no_exit_code(databases: Databases) -> None:
    for redirected in ("2>/dev/full", "2>&-"):
        ended = subprocess.run(["sh", "-c", f'"$0" status nobody {redirected}', DOCEVAL], capture_output=True)
        assert (ended.returncode, ended.stdout) == (1, b"")


def test_the_first_line_is_all_that_a_reader_needs(batch_of: BatchOf) -> None:
    batch_of(documents=1)
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$0" status | head -n 1', DOCEVAL], capture_output=True, text=True
    )
    assert ended.stdout.startswith("batch ")
    assert ended.stderr == ""
    assert doceval("status").returncode == 0
