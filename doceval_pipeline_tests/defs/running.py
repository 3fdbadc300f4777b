"""Runs what Dagster is given on a real instance, in this process."""

from typing import Any

import dagster as dg

from doceval_pipeline.definitions import defs as load_definitions
from doceval_pipeline.defs.resources import DocEval

definitions = load_definitions()

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run(instance: dg.DagsterInstance, job: str, key: str | None, **options: Any) -> dg.ExecuteInProcessResult:
    """Run a job, for a batch's partition or for none."""
    if key is not None:
        instance.add_dynamic_partitions("batches", [key])
    options.setdefault("run_config", QUIET)
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=key, raise_on_error=False, **options
    )


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What the step that failed says."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return str(data.description)


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """One tick of a sensor."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=definitions)
    return sensor(context, doc_eval=DocEval())
