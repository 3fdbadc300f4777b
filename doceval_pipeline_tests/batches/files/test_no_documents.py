"""A batch without a usable document says what was found, and what to do."""

from pathlib import Path
from typing import Any

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.steps import assign_documents, seal_batch
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.errors import StagingError
from doceval_pipeline_tests.conftest import evaluation_of


@pytest.mark.parametrize(
    ("files", "patterns", "expected"),
    [
        ([], {}, "(the folders are empty): put documents into FOLDER and stage the batch again"),
        (
            [".a"],
            {"include": ["*.pdf"]},
            "(1 hidden): put documents into FOLDER and stage the batch again (hidden files are used if the ",
        ),
        (
            ["a.PDF", "b.PDF", "c.txt", "d"],
            {"include": ["*.pdf", "*.docx"]},
            "(4 not included by pattern): 4 files found, none matches include ['*.pdf', '*.docx'] "
            "(extensions: 2 × .PDF, 1 × .txt, 1 × no extension): apply the batch under a new name with other "
            "patterns, or put documents into FOLDER and stage the batch again",
        ),
        (
            ["a.md", "b.md"],
            {"exclude": ["*.md"]},
            "(2 excluded by pattern): 2 files found, all match exclude ['*.md'] (extensions: 2 × .md)",
        ),
        (
            ["a.md", "b.txt", ".c"],
            {"include": ["*.md"], "exclude": ["a*"]},
            "(1 excluded by pattern, 1 hidden, 1 not included by pattern): 3 files found, 1 do not match "
            "include ['*.md'], 1 match exclude ['a*'] (extensions: 1 × .md, 1 × .txt)",
        ),
    ],
)
def test_a_batch_without_usable_files_has_a_reason(
    databases: Databases, tmp_path: Path, files: list[str], patterns: dict[str, Any], expected: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("x")
    located = evaluation_of([{"name": "a", "folders": [str(tmp_path)], **patterns}])
    number = apply_evaluation(databases.doc_eval, located).numbers["a"]
    seal_batch(databases, number)
    with pytest.raises(StagingError) as caught:
        assign_documents(databases, number)
    problem = f"batch-{number:06} has no usable document {expected}"
    assert str(caught.value).startswith(problem.replace("FOLDER", str(tmp_path.resolve())))
