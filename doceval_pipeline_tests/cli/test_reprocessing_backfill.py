"""Backfills through the real daemon that do failed evaluations of many closed batches again."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli import many
from doceval_pipeline_tests.cli.running import graphql, launch_backfill, query, running_up, until
from doceval_pipeline_tests.conftest import Sample

pytestmark = pytest.mark.slow
PORT = "3923"
EXECUTE_AGAIN = """
    mutation ($run: String!) {
        launchRunReexecution(reexecutionParams: {parentRunId: $run, strategy: FROM_FAILURE}) {
            __typename
            ... on LaunchRunSuccess { run { runId } }
            ... on PythonError { message }
        }
    }
"""
RUNS = """
    SELECT status, count(*) FROM runs JOIN run_tags USING (run_id)
    WHERE key = 'dagster/backfill' AND value = %s GROUP BY 1
"""
FAILED_RUN = """
    SELECT run_id FROM runs JOIN run_tags USING (run_id)
    WHERE key = 'dagster/backfill' AND value = %s AND status = 'FAILURE'
"""
RETRIED = """
    SELECT status FROM runs JOIN run_tags USING (run_id) WHERE key = 'dagster/parent_run_id' AND value = %s
"""
AGAIN = {"ops": {"queue_rows": {"config": {"mode": "failed"}}}}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="doceval-rp-"))
    yield folder
    EmbeddedServer(folder).stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def batches(home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return many.closed_batches(home, tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def up(home: Path, batches: list[Sample]) -> Iterator["subprocess.Popen[str]"]:
    for process in running_up(home, PORT):
        many.until_registered(home, batches)
        yield process


def ended(home: Path, backfill_id: str, **runs: int) -> bool:
    """Whether so many runs of a backfill ended in each way, and no others are there."""
    return dict(query(home, RUNS, backfill_id, database="dagster")) == runs


def test_a_backfill_does_57_failed_evaluations_of_20_batches_again_and_a_second_one_none(
    up: "subprocess.Popen[str]", home: Path, batches: list[Sample]
) -> None:
    keys = [batches[number].key for number in many.CHOSEN]
    reported = many.reports(home)
    # A batch that cannot be reprocessed stops no other.
    first = launch_backfill(PORT, [*keys, batches[-1].key], ["queue_rows"], AGAIN)
    until(lambda: ended(home, first, SUCCESS=20, FAILURE=1), seconds=900)
    assert many.new_attempts(home) == many.expected_attempts(batches)
    second = launch_backfill(PORT, keys, ["queue_rows"], AGAIN)
    until(lambda: ended(home, second, SUCCESS=20), seconds=900)
    assert many.new_attempts(home) == many.expected_attempts(batches), "they wait"

    batches[-1].stage()
    ((failed,),) = query(home, FAILED_RUN, first, database="dagster")
    retried = graphql(PORT, EXECUTE_AGAIN, run=failed)["launchRunReexecution"]
    assert retried["__typename"] == "LaunchRunSuccess"
    until(lambda: query(home, RETRIED, failed, database="dagster") == [("SUCCESS",)])
    query(home, f"{many.ANSWER} AND attempt > 1")
    until(lambda: many.reports(home) == reported + 20, seconds=900)
    assert sum(many.new_attempts(home).values()) == many.FAILURES


def test_the_runs_of_one_backfill_share_its_config(
    up: "subprocess.Popen[str]", home: Path, batches: list[Sample]
) -> None:
    """Dagster makes two runs of these assets, because one of them has no partitions."""
    shared = launch_backfill(PORT, [batches[0].key], ["queue_rows", "leaderboard"], AGAIN)
    until(lambda: ended(home, shared, SUCCESS=2), seconds=600)
    wrong = launch_backfill(
        PORT, [batches[0].key], ["queue_rows"], {"ops": {"document_assignment": {"config": {"rescan": True}}}}
    )
    until(lambda: ended(home, wrong, FAILURE=1), seconds=600)
