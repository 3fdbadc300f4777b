"""Folders of strangers, from the walk to the report: whatever is in them, staging ends and says what was."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.reporting import write_report
from doceval_pipeline.doc_eval.apply import apply_evaluation
from doceval_pipeline_tests.conftest import Sample, evaluation_of

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
