"""A code server that cannot be reached: the run goes back into the queue, and never begins twice."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher import LaunchRunContext
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration

from doceval_pipeline_tests.faults.daemon import LOGGER, ForkingLauncher, daemon_of
from doceval_pipeline_tests.faults.environment import Environment

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(environment: Environment, tmp_path: Path) -> Iterator[WorkspaceProcessContext]:
    with daemon_of(environment.databases.settings, tmp_path / "dagster") as context:
        yield context


def queued(environment: Environment, daemon: WorkspaceProcessContext) -> str:
    """A staging that was requested, and waits in the queue."""
    batch = environment.new_batch()
    batch.doc_eval("UPDATE batches SET stage_requested_at = now() WHERE id = :id")
    for error in execute_sensor_iteration(daemon, LOGGER, None, None):
        assert error is None, error.to_string()
    ((_, run),) = ((r.run_id, r) for r in daemon.instance.get_runs() if r.job_name == "stage_batch")
    assert run.status is dg.DagsterRunStatus.QUEUED
    return run.run_id


def dequeue(queue: QueuedRunCoordinatorDaemon, daemon: WorkspaceProcessContext, at: float) -> None:
    for error in queue.run_iteration(daemon, fixed_iteration_time=at):
        assert error is None, error.to_string()


@pytest.mark.parametrize(("begins", "launches"), [(False, 3), (True, 1)])
def test_a_run_is_launched_again_unless_it_had_begun(
    environment: Environment,
    daemon: WorkspaceProcessContext,
    monkeypatch: pytest.MonkeyPatch,
    begins: bool,
    launches: int,
) -> None:
    launched: list[str] = []

    def unreachable(launcher: ForkingLauncher, context: LaunchRunContext) -> None:
        run = context.dagster_run
        launched.append(run.run_id)
        if begins:
            started = DagsterEvent(DagsterEventType.RUN_START.value, job_name=run.job_name)
            launcher._instance.report_dagster_event(started, run.run_id)
        raise DagsterUserCodeUnreachableError("it does not answer")

    monkeypatch.setattr(ForkingLauncher, "launch_run", unreachable)
    run_id = queued(environment, daemon)
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as queue:
        for at in (1e6, 1e6 + 5, 1e6 + 10.1, 1e6 + 20.2):
            dequeue(queue, daemon, at)
    assert launched == [run_id] * launches
    found = daemon.instance.get_run_by_id(run_id)
    assert found is not None
    assert found.status is (dg.DagsterRunStatus.STARTED if begins else dg.DagsterRunStatus.QUEUED)
