"""What Dagster is given: the inventory is pinned, and its parts work on a real instance."""

import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from doceval_pipeline.batches.completion import look
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.defs.instance import open_instance
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample, evaluation_of

BatchOf = Callable[..., Sample]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.PreviewWarning)
    from doceval_pipeline.definitions import defs
    from doceval_pipeline.defs import sensors
    from doceval_pipeline.defs.resources import DocEval


@pytest.fixture
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    with open_instance(settings) as opened:
        yield opened


def run(instance: dg.DagsterInstance, job: str, key: str | None, **options: Any) -> dg.ExecuteInProcessResult:
    if key is not None:
        instance.add_dynamic_partitions("batches", [key])
    options.setdefault("run_config", QUIET)
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=key, raise_on_error=False, **options
    )


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return str(data.description)


def test_the_inventory_is_exactly_what_is_promised() -> None:
    repository = defs.get_repository_def()
    graph = repository.asset_graph
    assert {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()} == {
        "batch_config_snapshot": "staging",
        "document_assignment": "staging",
        "encoded_documents": "staging",
        "queue_rows": "staging",
        "llm_responses": "external_llm",
        "completion_report": "reporting",
    }
    assert {key.name for key in graph.asset_check_keys} == {
        "documents_round_trip",
        "queue_is_complete",
        "rows_have_documents",
    }
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == {
        "stage_batch",
        "report_batch",
        "create_batch",
        "reprocess_batch",
        "pause_batch",
        "resume_batch",
        "cancel_batch",
        "archive_batch",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "new_batches",
        "response_status",
        "staging_failure",
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {"stage_saved_batches"}


def test_sensors_are_on_by_default_and_tick_every_five_seconds_and_the_schedule_is_off() -> None:
    repository = defs.get_repository_def()
    for sensor in repository.sensor_defs:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        assert sensor.minimum_interval_seconds == 5
    (schedule,) = repository.schedule_defs
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_staging_shows_what_was_counted_as_metadata(batch_of: BatchOf, instance: dg.DagsterInstance) -> None:
    batch = batch_of(documents=3)
    (batch.folder / "empty").touch()
    result = run(instance, "stage_batch", batch.key)
    assert result.success
    shown = {
        event.materialization.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
    }
    assert shown["document_assignment"]["documents"].value == 3
    assert shown["document_assignment"]["files_skipped"].value == 1
    assert shown["encoded_documents"]["copied_documents"].value == 3
    assert shown["queue_rows"]["rows_added"].value == 12
    checks = {
        event.asset_check_evaluation_data.check_name: event.asset_check_evaluation_data.passed
        for event in result.all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION"
    }
    assert checks == {"documents_round_trip": True, "queue_is_complete": True, "rows_have_documents": True}


def test_a_failed_step_shows_the_one_line_and_the_batch_is_failed(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=0)
    result = run(instance, "stage_batch", batch.key)
    assert not result.success
    assert failure(result).startswith(f"{batch.key} has no usable document")
    assert batch.status() == "FAILED_STAGING"
    (batch.folder / "a.txt").write_text("now there is one")
    assert run(instance, "stage_batch", batch.key).success
    assert batch.status() == "STAGED"


@pytest.mark.parametrize("key", ["batch-900000", "my partition"])
def test_a_partition_without_a_batch_fails_with_a_clear_sentence(
    databases: Databases, instance: dg.DagsterInstance, key: str
) -> None:
    result = run(instance, "stage_batch", key)
    assert "has no batch behind it" in failure(result)
    instance.delete_dynamic_partition("batches", key)


def test_a_broken_content_stops_before_rows_are_queued(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=2)
    assert run(instance, "stage_batch", batch.key).success
    batch.knowledge("UPDATE docs SET content = 'A' || substr(content, 2)")
    batch.knowledge("TRUNCATE llm_responses")
    result = run(instance, "stage_batch", batch.key)
    assert not result.success
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(0,)]


def test_the_report_is_materialized_with_stable_numbers(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=2, connections=1, prompts=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 0, response_text = '<script>'")
    look(batch.databases)
    result = run(instance, "report_batch", batch.key)
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["cells_succeeded"].value == 4
    assert metadata["mean_score"].value == 0
    assert str(metadata["verdict"].value).startswith("Complete")
    path = Path(str(metadata["report"].value))
    assert path.name.startswith(batch.key)
    assert "<script>" not in path.read_text()
    assert batch.doc_eval("SELECT result_digest = reported_digest FROM batches WHERE id = :id") == [(True,)]


def test_a_refused_row_is_not_quoted_in_the_event_log(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    batch.knowledge("ALTER TABLE llm_responses ADD CONSTRAINT refuse_all CHECK (prompt_id < 0)")
    try:
        result = run(instance, "stage_batch", batch.key)
    finally:
        batch.knowledge("ALTER TABLE llm_responses DROP CONSTRAINT refuse_all")
    assert "refuse_all" in failure(result)
    logged = "".join(str(record) for record in instance.all_logs(result.run_id))
    assert "refuse_all" in logged
    # PostgreSQL's DETAIL, with the whole row in it.
    assert "Failing row" not in logged
    assert batch.status() == "FAILED_STAGING"


def test_reprocessing_is_a_job_with_a_mode_and_shows_in_the_history_of_the_queue(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'F'")
    look(batch.databases)
    config = {**QUIET, "ops": {"reprocess_cells": {"config": {"mode": "failed"}}}}
    result = run(instance, "reprocess_batch", batch.key, run_config=config)
    assert result.output_for_node("reprocess_cells")["new_attempts"] == 2
    (observed,) = [e for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION"]
    assert observed.asset_observation_data.asset_observation.metadata["new_attempts"].value == 2
    bad = {**QUIET, "ops": {"reprocess_cells": {"config": {"mode": "everything"}}}}
    with pytest.raises(dg.DagsterInvalidConfigError):
        run(instance, "reprocess_batch", batch.key, run_config=bad)


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_an_action_that_the_state_does_not_allow_fails_with_what_is_possible(
    batch_of: BatchOf, instance: dg.DagsterInstance, action: str
) -> None:
    batch = batch_of(documents=1)
    result = run(instance, f"{action}_batch", batch.key)
    assert "possible now is to stage it" in failure(result)


def create(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return run(instance, "create_batch", None, run_config={**QUIET, "ops": {"create": {"config": config}}})


def test_a_batch_is_created_from_the_launchpad(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    choice: dict[str, Any] = {
        "name": "from the launchpad",
        "folders": [str(tmp_path)],
        "connections": ["c"],
        "prompts": ["p"],
        "metadata": {"owner": "legal"},
        "new_connections": [{"name": "c", "provider": "ollama", "model": "m", "config": {"temperature": 0}}],
        "new_prompts": [{"name": "p", "text": "How clear?"}],
    }
    assert create(instance, **choice).success
    assert create(instance, **choice).success
    with databases.doc_eval.connect() as connection:
        from sqlalchemy import text

        (key,) = connection.scalars(text("SELECT 'batch-' || lpad(id::text, 6, '0') FROM batches")).all()
    assert key in instance.get_dynamic_partitions("batches")


def test_mistakes_in_the_launchpad_name_their_key(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    result = create(
        instance,
        name="7",
        folders=["relative"],
        connections=["c"],
        prompts=["p"],
        new_connections=[{"name": "c", "provider": "openai", "model": "m", "api_key_env": "sk-hunter2"}],
    )
    assert failure(result).splitlines() == [
        "config: new_connections[0].api_key_env: "
        "must be the NAME of an environment variable in capitals, not a key",
        "config: name: must not look like a batch number: commands take a number or a name",
    ]
    result = create(instance, name="a", folders=[str(tmp_path)], connections=["c"], prompts=["p"])
    assert failure(result).splitlines() == [
        "config: connections[0]: there is no connection 'c': define it under connections",
        "config: prompts[0]: there is no prompt 'p': define it under prompts",
    ]


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs)
    return sensor(context, doc_eval=DocEval())


def test_new_batches_registers_partitions_and_starts_what_was_asked_for(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    from doceval_pipeline.doc_eval.apply import apply_evaluation

    located = evaluation_of([{"name": "a", "folders": [str(tmp_path)]}])
    number = apply_evaluation(databases.doc_eval, located, stage=True).numbers["a"]
    first, second = tick(sensors.new_batches, instance), tick(sensors.new_batches, instance)
    assert first.dynamic_partitions_requests[0].partition_keys == [f"batch-{number:06d}"]
    # The same request has the same run key, so that it starts one run only.
    assert [r.run_key for r in first.run_requests] == [r.run_key for r in second.run_requests]
    assert [r.partition_key for r in first.run_requests] == [f"batch-{number:06d}"]


def test_response_status_observes_what_changed_and_asks_for_one_report(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    first = tick(sensors.response_status, instance)
    assert [type(event).__name__ for event in first.asset_events] == ["AssetObservation"]
    assert not tick(sensors.response_status, instance, first.cursor).asset_events
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    done = tick(sensors.response_status, instance, first.cursor)
    assert [type(event).__name__ for event in done.asset_events] == ["AssetMaterialization"]
    again = tick(sensors.response_status, instance, done.cursor)
    # Asked for until the report stands, always under the same key.
    assert [r.run_key for r in again.run_requests] == [r.run_key for r in done.run_requests]
    assert run(instance, "report_batch", batch.key).success
    assert not tick(sensors.response_status, instance, again.cursor).run_requests


def test_staging_failure_finds_a_staging_that_nobody_works_on(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.doc_eval("UPDATE batches SET status = 'STAGING', status_changed_at = now() WHERE id = :id")
    tick(sensors.staging_failure, instance)
    assert batch.status() == "STAGING", "it may be between two steps"
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '61 s' WHERE id = :id")
    assert batch.key in str(tick(sensors.staging_failure, instance).skip_message)
    assert batch.status() == "FAILED_STAGING"
    assert "materialize again" in batch.doc_eval("SELECT failure_reason FROM batches WHERE id = :id")[0][0]


def test_staging_failure_leaves_a_staging_alone_that_somebody_works_on(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    from doceval_pipeline.batches import staging

    batch = batch_of(documents=1)
    staging.seal_batch(batch.databases, batch.id)
    staging.assign_documents(batch.databases, batch.id)
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '1 day' WHERE id = :id")

    def look_meanwhile(done: int, *_: int) -> None:
        if not done:
            tick(sensors.staging_failure, instance)
            assert batch.status() == "STAGING"

    staging.store_documents(batch.databases, batch.id, look_meanwhile)


def test_the_schedule_asks_for_every_saved_batch(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    from doceval_pipeline.defs.schedules import stage_saved_batches
    from doceval_pipeline.doc_eval.apply import apply_evaluation

    numbers = apply_evaluation(
        databases.doc_eval, evaluation_of([{"name": name, "folders": [str(tmp_path)]} for name in "ab"])
    ).numbers
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime(2026, 1, 1))
    requests = stage_saved_batches(context, doc_eval=DocEval())
    assert sorted(r.partition_key for r in requests) == sorted(f"batch-{n:06d}" for n in numbers.values())


def observations(result: dg.ExecuteInProcessResult) -> list[dg.AssetObservation]:
    return [
        event.asset_observation_data.asset_observation
        for event in result.all_events
        if event.event_type_value == "ASSET_OBSERVATION"
    ]


def test_archiving_is_a_job_and_shows_in_the_history_of_the_report(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    result = run(instance, "archive_batch", batch.key)
    assert result.success
    (observed,) = observations(result)
    assert (observed.asset_key.to_user_string(), observed.partition) == ("completion_report", batch.key)
    assert observed.metadata["archived"].value is True
    path = Path(str(observed.metadata["archive"].value))
    assert observed.metadata["archive_bytes"].value == path.stat().st_size
    recorded = batch.doc_eval("SELECT archive_file, archive_sha256 FROM batches WHERE id = :id")
    assert recorded == [(path.name, observed.metadata["archive_sha256"].value)]
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(0,)]
    assert batch.key in instance.get_dynamic_partitions("batches")


@pytest.mark.parametrize("job", ["stage_batch", "report_batch", "reprocess_batch", "pause_batch"])
def test_what_needs_the_rows_of_an_archived_batch_fails_with_the_file_to_restore(
    batch_of: BatchOf, instance: dg.DagsterInstance, job: str
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    assert run(instance, "archive_batch", batch.key).success
    assert failure(run(instance, job, batch.key)).endswith(".zip first")
    assert not tick(sensors.response_status, instance).run_requests
    assert batch.status() == "COMPLETED"


def test_restoring_shows_in_the_history_of_the_report_without_a_run(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    from doceval_pipeline.batches.restoring import restore
    from doceval_pipeline.cli.runs import restore_and_tell

    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    archived = run(instance, "archive_batch", batch.key).output_for_node("archive_rows")
    instance.delete_dynamic_partition("batches", batch.key)

    def quiet(*_: int) -> None:
        """Progress that nobody watches."""

    path = Path(archived["path"])
    restore_and_tell(lambda: restore(batch.databases, path, quiet, quiet))
    assert batch.key in instance.get_dynamic_partitions("batches")
    newest = instance.fetch_observations(dg.AssetKey("completion_report"), limit=1).records[0]
    observed = newest.event_log_entry.asset_observation
    assert observed is not None
    assert observed.partition == batch.key
    assert observed.metadata["archived"].value is False
    assert observed.metadata["archive_sha256"].value == archived["sha256"]
