"""Commands that people copy reach the batch that they were written for, whatever it is called."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.reports.cli_hints import batch_argument, export_command, retry_command
from doceval_pipeline.reports.sanitize import visible_name
from doceval_pipeline_tests.reports.sample_reports import report_input


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("contracts-q4", "contracts-q4"),
        ("contracts q4", "'contracts q4'"),
        ("$(reboot)", "'$(reboot)'"),
        ("-rf", "batch-000070"),
        ("12", "batch-000070"),
        ("batch-000012", "batch-000070"),
        ("two\nlines", "batch-000070"),
        ("turned\u202earound", "batch-000070"),
        ("x" * 81, "batch-000070"),
        ("", "batch-000070"),
    ],
)
def test_a_name_is_one_word_or_replaced_by_the_partition(name: str, argument: str) -> None:
    data = report_input(name=name)
    assert batch_argument(data) == argument
    assert retry_command(data) == f"doceval reprocess {argument} --failed"
    assert export_command(data) == f"doceval export {argument} --format parquet --output batch-000070.parquet"


@given(name=st.text(st.characters(exclude_categories=())))
def test_a_shell_reads_the_batch_and_nothing_more(name: str) -> None:
    command = retry_command(report_input(name=name))
    assert shlex.split(command) in (
        ["doceval", "reprocess", name, "--failed"],
        ["doceval", "reprocess", "batch-000070", "--failed"],
    )
    assert visible_name(command) == command
