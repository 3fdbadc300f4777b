"""Dagster's daemon in this process: the steps that its threads repeat, on the installation's own storage.

Two things differ from `doceval up`. The code is loaded into the same process, and a run begins as a
process that is forked off, which lives on when the daemon is killed, as it does there.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.execution.api import execute_run
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon import sensor as sensor_daemon
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._serdes import ConfigurableClass
from dagster._serdes.config_class import ConfigurableClassData
from dagster._utils.hosted_user_process import recon_job_from_origin

from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.defs.instance import LOCATION, dagster_environment, prepare_dagster_home
from doceval_pipeline.settings import Settings

LOGGER = logging.getLogger("daemon of the tests")
# What the others find does not matter to reports.
SENSORS = ("new_batches", "response_status")


class ForkingLauncher(RunLauncher, ConfigurableClass):
    """Executes each run in a process that is forked off."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "ForkingLauncher":
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        if os.fork():
            return
        ended = 1
        try:
            # The connections of the process that this one was forked off are not its own.
            databases = open_databases(Settings.from_environment())
            databases.doc_eval.dispose(close=False)
            databases.knowledge.dispose(close=False)
            assert context.job_code_origin is not None
            execute_run(recon_job_from_origin(context.job_code_origin), context.dagster_run, self._instance)
            ended = 0
        finally:
            os._exit(ended)

    def terminate(self, run_id: str) -> bool:
        return False

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        # Asked when a life begins, and those that are waited for have ended before.
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND)


@contextmanager
def daemon_of(settings: Settings, home: Path) -> Iterator[WorkspaceProcessContext]:
    """All that a life of the daemon needs, loaded once; `home` is its DAGSTER_HOME."""
    prepare_dagster_home(settings)
    os.environ.update(dagster_environment(settings))
    configuration = yaml.safe_load((settings.dagster_home / "dagster.yaml").read_text())
    configuration["run_launcher"] = {"module": __name__, "class": ForkingLauncher.__name__}
    # A run that was about to begin when the daemon was killed is given up at once.
    configuration["run_monitoring"]["start_timeout_seconds"] = 1
    # So that a life leaves nothing in the queue.
    configuration["concurrency"]["runs"]["max_concurrent_runs"] = 20
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name="doceval_pipeline.definitions"), location_name=LOCATION
    )
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context,
    ):
        stop_other_sensors(context)
        yield context


def stop_other_sensors(context: WorkspaceProcessContext) -> None:
    """Leave only those sensors on that lead to reports."""
    (location,) = context.create_request_context().code_locations
    for repository in location.get_repositories().values():
        for sensor in repository.get_sensors():
            if sensor.name not in SENSORS:
                context.instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)


def live(context: WorkspaceProcessContext) -> None:
    """One life of the daemon: it looks after runs that were lost, and then ticks and starts runs."""
    # Lives are shorter than the time that sensors leave between two ticks.
    sensor_daemon.is_under_min_interval = lambda *_: False
    _drain(execute_run_monitoring_iteration(context, LOGGER))
    _drain(EventLogConsumerDaemon().run_iteration(context))
    _drain(sensor_daemon.execute_sensor_iteration(context, LOGGER, None, None))
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as queue:
        _drain(queue.run_iteration(context))


def _drain(steps: Iterable[Any]) -> None:
    for error in steps:
        assert error is None, error.to_string()
