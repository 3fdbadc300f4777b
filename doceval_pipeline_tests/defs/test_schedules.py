"""Schedules with changing cron expressions, run by Dagster's own scheduler at times that the test sets."""

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.remote_representation.external import RemoteRepository
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.types import DaemonHeartbeat
from dagster._scheduler.scheduler import launch_scheduled_runs

from doceval_pipeline.batches.monitoring.pending_work import PendingWork
from doceval_pipeline.defs.idle import why_waiting
from doceval_pipeline.defs.schedules import counts_from
from doceval_pipeline.settings import Settings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("kept", "since"),
    [
        (None, NOON),
        (json.dumps({"cron": "0 2 * * *", "since": NOON - 86_400}), NOON - 86_400),
        (json.dumps({"cron": "0 3 * * *", "since": NOON - 86_400}), NOON),
        # Kept by a clock that was ahead, or by nobody who knows the form.
        (json.dumps({"cron": "0 2 * * *", "since": NOON + 86_400}), NOON),
        ("[]", NOON),
        ("{", NOON),
        ("[" * 100_000, NOON),
        (json.dumps({"cron": "0 2 * * *", "since": "yesterday"}), NOON),
    ],
)
def test_a_cron_counts_from_when_it_was_read_first(kept: str | None, since: float) -> None:
    assert counts_from(kept, "0 2 * * *", NOON) == since


def look(context: WorkspaceProcessContext, at: datetime) -> None:
    """One look of Dagster's scheduler, after a restart: it remembers only what is stored."""
    for _ in launch_scheduled_runs(context, logging.getLogger("scheduler"), at, iteration_times={}):
        pass


def repository_of(context: WorkspaceProcessContext) -> RemoteRepository:
    (location,) = context.create_request_context().code_locations
    (repository,) = location.get_repositories().values()
    return repository


def newest_tick(instance: dg.DagsterInstance, context: WorkspaceProcessContext) -> InstigatorTick | None:
    schedule = repository_of(context).get_schedule("nightly_audit")
    ticks = instance.get_ticks(schedule.get_remote_origin_id(), schedule.selector_id, limit=1)
    return ticks[0] if ticks else None


@pytest.fixture
def workspace(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[WorkspaceProcessContext]:
    """A code server whose audit is due each hour at the given distance from now, in minutes."""
    minute = (datetime.now(UTC) + timedelta(minutes=request.param)).minute
    monkeypatch.setenv("DOCEVAL_AUDIT_CRON", f"{minute} * * * *")
    target = ModuleTarget(
        module_name="doceval_pipeline.definitions",
        attribute=None,
        working_directory=None,
        location_name="doceval_pipeline",
    )
    with create_test_daemon_workspace_context(target, instance) as context:
        yield context


@pytest.mark.slow
@pytest.mark.parametrize("workspace", [-20], indirect=True)
def test_a_changed_cron_runs_no_tick_of_before_and_every_one_after(
    workspace: WorkspaceProcessContext, instance: dg.DagsterInstance
) -> None:
    now = datetime.now(UTC)
    # What is stored is of 50 minutes ago; the new cron would have been due 20 minutes ago.
    look(workspace, now - timedelta(minutes=50))
    look(workspace, now)
    tick = newest_tick(instance, workspace)
    assert tick is not None
    assert tick.status is TickStatus.SKIPPED
    assert "this tick is older" in str(tick.skip_reason)
    assert not instance.get_runs(dg.RunsFilter(job_name="audit_databases"))
    look(workspace, now + timedelta(minutes=41))
    tick = newest_tick(instance, workspace)
    assert tick is not None
    assert (tick.status, len(tick.run_ids)) == (TickStatus.SUCCESS, 1)
    # The same cron after a time in which nothing ran: its newest tick is made good.
    look(workspace, now + timedelta(hours=3))
    tick = newest_tick(instance, workspace)
    assert tick is not None
    assert (tick.status, len(tick.run_ids)) == (TickStatus.SUCCESS, 1)


@pytest.mark.slow
@pytest.mark.parametrize("workspace", [-20], indirect=True)
def test_work_that_waits_for_a_sensor_that_was_stopped_in_dagster_is_named(
    workspace: WorkspaceProcessContext, instance: dg.DagsterInstance, settings: Settings
) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "test", []))
    work = [PendingWork("1 batch is done and waits", "response_status")]
    sensor = repository_of(workspace).get_sensor("response_status")
    try:
        assert not why_waiting(settings, work)
        instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)
        (said,) = why_waiting(settings, work)
        assert said.startswith("1 batch is done and waits, and the sensor response_status is stopped: ")
        instance.start_sensor(sensor)
        assert not why_waiting(settings, work)
    finally:
        instance.reset_sensor(sensor)
        instance.wipe_daemon_heartbeats()
