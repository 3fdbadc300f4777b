"""A batch's name is seen wherever its key is, and what others put into a name does no harm."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.defs import sensors
from doceval_pipeline.defs.naming import run_tags_of, shown_name
from doceval_pipeline.defs.schedules import schedules
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample, evaluation_of
from doceval_pipeline_tests.defs.running import DocEval, run, tick

BatchOf = Callable[..., Sample]
HOSTILE = "![x](http://evil/)<b>\u202egnp\n" + "n" * 150
SHOWN = "![x](http://evil/)<b>⟨U+202E⟩gnp␊" + "n" * 46 + "…"


def events_of(result: dg.ExecuteInProcessResult) -> list[dg.AssetMaterialization | dg.AssetObservation]:
    """What a run told of assets."""
    found = [event.event_specific_data for event in result.all_events]
    told = [getattr(data, "materialization", getattr(data, "asset_observation", None)) for data in found]
    return [event for event in told if event is not None]


@pytest.fixture
def batch(batch_of: BatchOf) -> Sample:
    batch = batch_of(documents=2)
    batch.doc_eval("UPDATE batches SET batch_name = :name, priority = 42 WHERE id = :id", name=HOSTILE)
    return batch


def test_a_name_is_shown_in_one_line_of_bounded_length() -> None:
    assert shown_name(HOSTILE) == SHOWN
    assert len(SHOWN) == 80
    assert shown_name("") == "(no name)"
    assert "sk-" not in shown_name("sk-" + "a1" * 30)


def test_every_materialization_observation_and_check_begins_with_the_name(
    batch: Sample, instance: dg.DagsterInstance
) -> None:
    results = [run(instance, "stage_batch", batch.key)]
    results += [run(instance, job, batch.key) for job in ("pause_batch", "resume_batch")]
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 1")
    poll(batch.databases)
    results += [run(instance, job, batch.key) for job in ("report_batch", "archive_batch")]
    assert all(result.success for result in results)
    told = [event for result in results for event in events_of(result)]
    assert len(told) == 4 + 2 + 1 + 1
    for event in told:
        key, value = next(iter(event.metadata.items()))
        assert (key, value.value) == ("batch", SHOWN), event.asset_key
    checks = [check for result in results for check in result.get_asset_check_evaluations()]
    assert len(checks) == 6
    for check in checks:
        assert str(check.description).startswith(f"{SHOWN}: "), check.check_name
        assert next(iter(check.metadata)) == "batch"


def test_a_sensor_names_the_batch_too(batch: Sample, instance: dg.DagsterInstance) -> None:
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE id = (SELECT min(id) FROM llm_responses)")
    (observed,) = tick(sensors.response_status, instance).asset_events
    assert next(iter(observed.metadata.items())) == ("batch", dg.MetadataValue.text(SHOWN))
    (judged,) = tick(sensors.stalled_work, instance).asset_events
    assert judged.description.startswith(f"{SHOWN}: ")
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    (completed,) = tick(sensors.response_status, instance).asset_events
    assert next(iter(completed.metadata)) == "batch"
    assert completed.metadata["dagster/partition_row_count"] == dg.MetadataValue.int(8)


def test_runs_that_sensors_and_schedules_ask_for_carry_name_and_priority(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    located = evaluation_of(
        [
            {"name": name, "folders": [str(tmp_path)], "priority": priority}
            for name, priority in (("now", 7), ("later", 10))
        ]
    )
    numbers = apply_evaluation(databases.doc_eval, located).numbers
    located = evaluation_of([{"name": "now", "folders": [str(tmp_path)], "priority": 7}])
    apply_evaluation(databases.doc_eval, located, stage=True)
    (asked,) = tick(sensors.new_batches, instance).run_requests
    assert asked.tags == asked.tags | {"doceval/batch": "now", "dagster/priority": "7"}
    (schedule,) = (s for s in schedules(Settings(Path("/"))) if s.name == "stage_saved_batches")
    context = dg.build_schedule_context(instance, scheduled_execution_time=datetime.now(UTC))
    requests = schedule(context, doc_eval=DocEval())
    assert {"doceval/batch": "later", "dagster/priority": "10"}.items() <= requests[0].tags.items()
    assert set(run_tags_of(databases, numbers.values())) == set(numbers.values())


def test_a_report_that_a_sensor_asks_for_goes_before_a_backfill(
    batch: Sample, instance: dg.DagsterInstance
) -> None:
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    (asked,) = tick(sensors.response_status, instance).run_requests
    assert asked.tags["doceval/batch"] == SHOWN
    # Dagster's runs are 0 unless somebody says otherwise, and higher ones go first.
    assert int(asked.tags["dagster/priority"]) == 42


def test_the_log_of_a_run_says_what_each_step_did_with_counts(
    batch: Sample, instance: dg.DagsterInstance
) -> None:
    result = run(instance, "stage_batch", batch.key)
    lines = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.dagster_event is None]
    said = [line.removeprefix(f"{SHOWN}: ") for line in lines]
    assert said[0].startswith("snapshot ")
    assert said[0].endswith(" is sealed, with 1 folder, 2 connections and 2 prompts")
    assert "2 usable files of 63 B; no file left out; the folders were scanned now" in said
    assert "2 documents staged: 2 stored now (63 B), 0 earlier; no file left out" in said
    queued = "8 evaluations in the queue (documents x prompts x connections: 2 x 2 x 2), 8 of them added now"
    assert f"{queued}; mode missing queued 0 new attempts" in said
    assert len([line for line in said if line.startswith(("documents_round", "queue_is", "rows_have"))]) == 3
