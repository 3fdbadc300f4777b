"""What people are told of work that waits while nothing of Dagster's does it."""

import time

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from doceval_pipeline.batches.monitoring.pending_work import PendingWork, find_pending_work
from doceval_pipeline.defs.idle import reasons, why_waiting
from doceval_pipeline_tests.cli.running import doceval
from doceval_pipeline_tests.defs.test_sensors import BatchOf

DONE = PendingWork("2 batches are done and wait", "response_status")
STAGING = PendingWork("1 staging waits", "new_batches")
NOON = 1_767_268_800.0


@pytest.mark.parametrize(
    ("work", "heartbeat", "stopped", "queued", "said"),
    [
        ([DONE], NOON - 20, [], 0, []),
        ([DONE], NOON - 20, ["new_batches"], 0, []),
        (
            [DONE, STAGING],
            None,
            [],
            1,
            [
                "2 batches are done and wait, 1 staging waits, 1 run is queued, and Dagster's daemon is "
                "not running (it has never sent a heartbeat): start doceval up"
            ],
        ),
        (
            [DONE],
            NOON - 3600,
            [],
            0,
            [
                "2 batches are done and wait, and Dagster's daemon is not running "
                "(its last heartbeat was at 2026-01-01 11:00:00 UTC): start doceval up"
            ],
        ),
        # The clock was set back since.
        ([STAGING], NOON + 3600, [], 0, ["1 staging waits, and Dagster's daemon is not running"]),
        (
            [DONE, STAGING],
            NOON - 20,
            ["response_status", "stalled_work"],
            3,
            [
                "2 batches are done and wait, and the sensor response_status is stopped: start it on "
                "the Automation page in Dagster"
            ],
        ),
    ],
)
def test_the_reason_why_work_waits_names_what_to_start(
    work: list[PendingWork], heartbeat: float | None, stopped: list[str], queued: int, said: list[str]
) -> None:
    found = reasons(work, heartbeat, NOON, stopped, queued)
    assert len(found) == len(said)
    assert all(sentence.startswith(start) for sentence, start in zip(found, said, strict=True))


def test_check_and_status_tell_of_a_batch_that_is_done_while_no_daemon_runs(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    assert not find_pending_work(batch.databases)
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    instance.wipe_daemon_heartbeats()
    home = str(batch.databases.settings.home)
    for command in ("check", "status"):
        told = doceval(command, DOCEVAL_HOME=home).stderr
        assert "1 batch is done and waits, and Dagster's daemon is not running" in told
        assert "start doceval up" in told
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "test", []))
    assert not why_waiting(batch.databases.settings, find_pending_work(batch.databases))
    instance.wipe_daemon_heartbeats()


def test_a_staging_that_is_requested_waits_for_its_sensor(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.doc_eval("UPDATE batches SET stage_requested_at = now() WHERE id = :id")
    assert find_pending_work(batch.databases) == [STAGING]
