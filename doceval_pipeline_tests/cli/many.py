"""An installation with many closed batches, some of whose evaluations failed, and what becomes of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import query, until
from doceval_pipeline_tests.conftest import Sample, sample_batch

BATCHES, FAILURES = 24, 57
# Every sixth batch has no failure: the others are scattered over four ranges of keys.
CHOSEN = [number for number in range(BATCHES) if number % 6 != 5]
FAIL = """
    UPDATE llm_responses SET status = 'F', error_message = 'overloaded' WHERE id IN (
        SELECT id FROM llm_responses WHERE batch_id = :id ORDER BY id LIMIT :failures)
"""
ANSWER = "UPDATE llm_responses SET status = 'S', overall_score = 50 WHERE status = 'QUEUED'"
REGISTERED = "SELECT count(*) FROM dynamic_partitions"
ATTEMPTS = "SELECT batch_id, count(*) FROM llm_responses WHERE attempt > 1 GROUP BY 1"


def closed_batches(home: Path, folder: Path, failures: int = FAILURES) -> list[Sample]:
    """24 completed and reported batches, of which 20 have failed evaluations, and one that is not staged.

    Made before Dagster runs, which then has nothing to do.
    """
    settings = replace(Settings.from_environment(), home=home)
    databases = open_databases(settings)
    made = [sample_batch(databases, folder, 2, 1, 2, f"many {number:02}x") for number in range(BATCHES)]
    for number, batch in enumerate(made):
        batch.stage()
        batch.knowledge(FAIL, failures=failures_of(number, failures))
    made[0].knowledge(ANSWER)
    poll(databases)
    for batch in made:
        write_report(databases, batch.id)
    return [*made, sample_batch(databases, folder, 2, 1, 2, "not staged")]


def failures_of(number: int, failures: int) -> int:
    """How many evaluations of the n-th batch fail: 2 or 3 of each that is chosen."""
    if number not in CHOSEN:
        return 0
    each, more = divmod(failures, len(CHOSEN))
    return each + (CHOSEN.index(number) < more)


def new_attempts(home: Path) -> dict[int, int]:
    """Attempts after the first, by batch."""
    return dict(query(home, ATTEMPTS))


def until_registered(home: Path, batches: list[Sample]) -> None:
    """Wait until the sensor has registered a partition for each batch."""
    until(lambda: query(home, REGISTERED, database="dagster") == [(len(batches),)])


def reports(home: Path) -> int:
    """Reports that were written."""
    return len(list((home / "reports").glob("batch-*.html")))


def expected_attempts(batches: list[Sample], failures: int = FAILURES) -> Mapping[int, int]:
    """The attempts that reprocessing what failed leads to, by batch."""
    return {batches[number].id: failures_of(number, failures) for number in CHOSEN}
