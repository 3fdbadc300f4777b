"""Folders of strangers, from the walk to the report: whatever is in them, staging ends and says what was."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline_tests.cli.running import doceval, read_json
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

LEVELS = 1100


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A file 1,100 levels deep below folders with long names: its path has 110,000 bytes."""
    top = tmp_path / "deep"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir("d" * 99, dir_fd=descriptor)
        below = os.open("d" * 99, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    file = os.open("f.txt", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    os.write(file, b"deep down")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    os.close(file)
    os.close(descriptor)
    yield top
    subprocess.run(["rm", "-rf", str(top)], check=True)


def staged(databases: Databases, folder: Path) -> Sample:
    located = evaluation_of([{"name": "hostile", "folders": [str(folder)]}], connections=1, prompts=1)
    batch = Sample(
        databases, apply_evaluation(databases.doc_eval, located).numbers["hostile"], "hostile", folder
    )
    batch.stage()
    return batch


def test_a_file_whose_path_is_longer_than_any_system_call_takes_is_staged(
    databases: Databases, deep: Path
) -> None:
    batch = staged(databases, deep)
    assert batch.knowledge("SELECT convert_from(decode(content, 'base64'), 'UTF8') FROM docs") == [
        ("deep down",)
    ]
    ((name,),) = batch.knowledge("SELECT file_name FROM llm_responses")
    assert name == ("d" * 99 + "/") * LEVELS + "f.txt"
    assert write_report(databases, batch.id).path.stat().st_size < 1_000_000


NAMES = (
    "two\nlines.txt",
    "\x1b[2J\x1b]0;title\x07red\x1b[31m.txt",
    "\x1b]8;;mailto:evil\x07click\x1b]8;;\x07.txt",
    "invoice\u202efdp.exe",
    "[red]markup[bold blink].txt",
    "<script>alert(1)<\u2215script><img src=x onerror=alert(1)>.html",
    "![x](mailto:evil@evil.invalid).md",
    "n" * 251 + ".txt",
    "-rf",
    "--help",
    "`id`; $(id) & | > *",
    "=cmd|' ' !A1",
    "%s%n{0}{{7*7}}",
    "'; DROP TABLE docs; --",
    "\u200b\ufeff\u00ad.txt",
    "\ue000\U000f0000.txt",
    "a\u0301" * 60 + ".txt",
)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    folder = tmp_path / "named"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        write_old(folder / name, f"content {number}")
    raw = os.fsencode(folder)
    for name in (b"caf\xe9.txt", b"\xff\xfe\x1b[31m"):
        with open(raw + b"/" + name, "wb") as file:
            file.write(b"x")
    return folder


def test_names_are_kept_as_they_are_and_do_nothing_in_a_terminal_or_in_json(
    databases: Databases, named: Path
) -> None:
    batch = staged(databases, named)
    assert {name for (name,) in batch.knowledge("SELECT file_name FROM llm_responses")} == set(NAMES)
    shown = doceval("documents", "hostile")
    assert shown.returncode == 0
    assert "\\x1b[2J" in shown.stdout.replace("\n", "")
    for text in (shown.stdout, doceval("status", "hostile").stdout, doceval("plan", "hostile").stdout):
        unseen = {char for char in text if not char.isprintable() and char != "\n"}
        assert unseen == set()
    exact = {file["path"]: file["state"] for file in read_json("documents", "hostile")}
    assert {path for path, state in exact.items() if state == "STAGED"} == set(NAMES)
    assert {path for path, state in exact.items() if state == "REJECTED"} == {
        r"caf\xe9.txt",
        r"\xff\xfe" + "\x1b[31m",
    }
