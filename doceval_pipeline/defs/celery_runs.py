"""Dagster's run launcher for Celery, with runs that end as cancelled when they are cancelled."""

from dagster import DagsterRun, DagsterRunStatus
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG


class CancellingCeleryRunLauncher(CeleryRunLauncher):
    """Starts runs as Celery tasks, as `CeleryRunLauncher` does; configured in the same way."""

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run on its worker; False if it no longer runs.

        The request is recorded first: without it, Dagster takes the interrupt for a failure.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return False
        self._instance.report_run_canceling(run)
        return super().terminate(run_id)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """What Celery's result backend knows about a run's task.

        A backend that was restarted, or whose entry expired, no longer knows the task of a run that works.
        Such a run counts as running; the sensor `dead_runs` finds out whether it is alive.
        """
        if DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.UNKNOWN)
        known = super().check_run_worker_health(run)
        if known.status is WorkerStatus.UNKNOWN and run.status is DagsterRunStatus.STARTED:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return known
