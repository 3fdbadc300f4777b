"""Dagster's definitions: the inventory is pinned, and its parts work on a real instance."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._cli.utils import TMP_DAGSTER_HOME_PREFIX
from dagster._core.execution.api import create_execution_plan
from dagster._core.snap import snapshot_from_execution_plan

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import WrittenReport, write_report
from doceval_pipeline.definitions import own_definitions
from doceval_pipeline.defs import reporting, resources
from doceval_pipeline.defs.assembly import staging_definitions
from doceval_pipeline.defs.naming import run_tags
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.domain.insights import Provenance
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample, evaluation_of
from doceval_pipeline_tests.defs.running import QUIET, definitions, failure, run

BatchOf = Callable[..., Sample]


def test_staging_alone_is_the_same_job_as_among_all_definitions() -> None:
    # The command line defines staging alone; the UI shows its runs beside those of all definitions.
    settings = Settings.from_environment()
    alone, among_all = (
        defs.resolve_job_def("stage_batch")
        for defs in (staging_definitions(settings), own_definitions(settings))
    )
    assert alone.get_job_snapshot_id() == among_all.get_job_snapshot_id()
    plans = [snapshot_from_execution_plan(create_execution_plan(job), "") for job in (alone, among_all)]
    assert plans[0] == plans[1]
    keys = alone.asset_layer.selected_asset_keys
    assert len(keys) == 4
    specs = [{key: job.asset_layer.get(key).to_asset_spec() for key in keys} for job in (alone, among_all)]
    assert specs[0] == specs[1]
    assert {*alone.asset_layer.asset_graph.asset_check_keys} <= {
        *among_all.asset_layer.asset_graph.asset_check_keys
    }


def test_the_inventory_is_complete() -> None:
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    assert {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()} == {
        "batch_config_snapshot": "staging",
        "document_assignment": "staging",
        "encoded_documents": "staging",
        "queue_rows": "staging",
        "llm_responses": "external_llm",
        "completion_report": "reporting",
        "leaderboard": "reporting",
        "series": "reporting",
        "audit": "upkeep",
    }
    assert {key.name for key in graph.asset_check_keys} == {
        "documents_round_trip",
        "queue_is_complete",
        "rows_have_documents",
        "responses_keep_coming",
        "score_drift",
        "results_are_sound",
        "report_is_written",
        "every_invariant_holds",
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
        "run_recurring",
        "pause_recurring",
        "resume_recurring",
        "delete_recurring",
        "refresh_leaderboard",
        "refresh_series",
        "audit_databases",
        "retention",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "new_batches",
        "response_status",
        "stalled_work",
        "staging_failure",
        "dead_runs",
        "recurring_evaluations",
        "fresh_leaderboard",
        "fresh_series",
        "completion_webhook",
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {
        "stage_saved_batches",
        "nightly_audit",
        "nightly_retention",
    }


def test_everything_that_the_ui_lists_has_a_description_in_the_third_person() -> None:
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    checks = graph.asset_check_keys
    descriptions = {
        **{f"asset {key.to_user_string()}": graph.get(key).description for key in graph.get_all_asset_keys()},
        **{f"check {key.name}": graph.get_check_spec(key).description for key in checks},
        **{
            f"job {job.name}": job.description
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        **{f"sensor {sensor.name}": sensor.description for sensor in repository.sensor_defs},
        **{f"schedule {schedule.name}": schedule.description for schedule in repository.schedule_defs},
    }
    wrong = {
        name: text for name, text in descriptions.items() if not re.match(r"[A-Z][a-z]+s [^.]+\.", text or "")
    }
    assert wrong == {}


def test_a_home_that_dagster_throws_away_is_known_by_the_name_that_dagster_gives_it() -> None:
    assert resources.TEMPORARY_HOME == TMP_DAGSTER_HOME_PREFIX


def test_sensors_tick_every_five_seconds_and_are_on_by_default_but_for_the_one_that_needs_a_receiver() -> (
    None
):
    repository = definitions.get_repository_def()
    intervals = {sensor.name: sensor.minimum_interval_seconds for sensor in repository.sensor_defs}
    assert {name: seconds for name, seconds in intervals.items() if seconds != 4} == {
        "stalled_work": 30,
        "recurring_evaluations": 14,
        "fresh_leaderboard": 120,
        "fresh_series": 60,
    }
    off = {s.name for s in repository.sensor_defs if s.default_status is dg.DefaultSensorStatus.STOPPED}
    assert off == {"completion_webhook"}


def test_schedules_are_on_but_for_the_one_that_may_begin_work_that_costs_money() -> None:
    schedules = {s.name: s for s in definitions.get_repository_def().schedule_defs}
    on = {name for name, s in schedules.items() if s.default_status is dg.DefaultScheduleStatus.RUNNING}
    assert on == {"nightly_audit", "nightly_retention"}


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
    assert "has no batch:" in failure(result)
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


def test_one_check_can_be_run_alone_and_names_the_problem(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=2)
    assert run(instance, "stage_batch", batch.key).success
    batch.plant("DELETE FROM llm_responses WHERE id = (SELECT min(id) FROM llm_responses)")
    chosen = dg.AssetCheckKey(dg.AssetKey("queue_rows"), "queue_is_complete")
    # As Dagster's page does it.
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={chosen}
    )
    result = job.execute_in_process(
        instance=instance, partition_key=batch.key, raise_on_error=False, run_config=QUIET
    )
    (evaluation,) = [
        event.asset_check_evaluation_data
        for event in result.all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION"
    ]
    assert (evaluation.check_name, evaluation.passed, evaluation.partition) == (chosen.name, False, batch.key)
    assert "3 of 4 evaluations" in str(evaluation.description)


def test_the_report_is_materialized_with_stable_numbers(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=2, connections=1, prompts=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 0, response_text = '<script>ran'")
    poll(batch.databases)
    result = run(instance, "report_batch", batch.key)
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["cells_succeeded"].value == 4
    assert metadata["mean_score"].value == 0
    assert metadata["mean_score · prompt-1 · model-0"].value == 0
    assert str(metadata["verdict"].value).startswith("Complete")
    assert str(metadata["decision"].value).startswith("For prompt-0, model-0 scores 0 on average")
    path = Path(str(metadata["report"].value))
    assert path.name.startswith(batch.key)
    assert "<script>ran" not in path.read_text()
    assert batch.doc_eval("SELECT result_digest = reported_digest FROM batches WHERE id = :id") == [(True,)]


def test_a_report_knows_the_runs_that_staged_its_batch_and_is_the_same_when_written_again(
    batch_of: BatchOf, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def write(databases: Databases, batch_id: int, provenance: Provenance) -> WrittenReport:
        told.append(provenance)
        return write_report(databases, batch_id, provenance)

    monkeypatch.setattr(reporting, "write_report", write)
    batch = batch_of(documents=1, connections=1, prompts=1)
    run(instance, "stage_batch", batch.key)
    staged = run(instance, "stage_batch", batch.key)
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 0")
    poll(batch.databases)
    written = Path(str(metadata_of(run(instance, "report_batch", batch.key))["report"].value))
    content = written.read_bytes()
    run(instance, "report_batch", batch.key)
    assert written.read_bytes() == content
    assets = ("batch_config_snapshot", "document_assignment", "encoded_documents", "queue_rows")
    assert told == [Provenance(tuple((asset, staged.run_id) for asset in assets))] * 2


def metadata_of(result: dg.ExecuteInProcessResult) -> Mapping[str, dg.MetadataValue]:
    (event,) = result.get_asset_materialization_events()
    return event.materialization.metadata


def test_a_sensor_that_asks_twice_for_the_report_of_a_result_gets_it_once_and_a_person_whenever_they_ask(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'F'")
    poll(batch.databases)

    def reports(**tags: str) -> int:
        result = run(instance, "report_batch", batch.key, tags=tags)
        assert result.success
        return len(result.get_asset_materialization_events())

    by_sensor = {"dagster/sensor_name": "response_status"}
    assert [reports(**by_sensor), reports(**by_sensor), reports(), reports(**by_sensor)] == [1, 0, 1, 0]
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    assert reports(**by_sensor) == 1, "another result"


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
    poll(batch.databases)
    config = {**QUIET, "ops": {"reprocess_cells": {"config": {"mode": "failed"}}}}
    result = run(instance, "reprocess_batch", batch.key, run_config=config)
    assert result.output_for_node("reprocess_cells")["new_attempts"] == 2
    (observed,) = [e for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION"]
    assert observed.asset_observation_data.asset_observation.metadata["new_attempts"].value == 2
    bad = {**QUIET, "ops": {"reprocess_cells": {"config": {"mode": "everything"}}}}
    with pytest.raises(dg.DagsterInvalidConfigError):
        run(instance, "reprocess_batch", batch.key, run_config=bad)


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_an_action_that_the_state_forbids_fails_with_the_possible_actions(
    batch_of: BatchOf, instance: dg.DagsterInstance, action: str
) -> None:
    batch = batch_of(documents=1)
    result = run(instance, f"{action}_batch", batch.key)
    assert "possible now: stage" in failure(result)


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


def test_the_launchpad_changes_only_what_was_typed(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    from sqlalchemy import text

    connection = {"name": "c", "provider": "ollama", "model": "m"}
    prices = {"input_per_million": 2, "output_per_million": 3}
    choice = {"name": "Prüfung", "folders": [str(tmp_path)], "connections": ["c"], "prompts": ["p"]}
    assert create(
        instance,
        **choice,
        metadata={"owner": "legal"},
        priority=50,
        margin=3,
        new_connections=[{**connection, "port": 1, "prices": prices}],
        new_prompts=[{"name": "p", "text": "How clear?", "threshold": 60, "weight": 2.5}],
    ).success
    again = {**choice, "name": "Pru\u0308fung", "priority": 10}
    done = create(
        instance,
        **again,
        new_connections=[{**connection, "prices": {"input_per_million": 4.0}}],
        new_prompts=[{"name": "p", "text": "How clear?", "threshold": 70}],
    )
    assert done.success
    with databases.doc_eval.connect() as opened:
        found = opened.execute(
            text(
                "SELECT b.meta_data, priority, port_no, prices, margin, threshold, weight "
                "FROM batches b, connections, prompts"
            )
        ).one()
    assert found == (
        {"owner": "legal"},
        10,
        1,
        {"input_per_million": 4, "output_per_million": 3, "currency": "USD"},
        3,
        70,
        2.5,
    )
    lines = [record.user_message for record in instance.all_logs(done.run_id)]
    assert "batch 'Prüfung': priority 50 → 10" in lines
    assert "prompt 'p': threshold 60 → 70; counts in new reports (doceval report BATCH)" in lines
    cleared = create(
        instance, **choice, margin=None, new_prompts=[{"name": "p", "text": "How clear?", "weight": None}]
    )
    lines = [record.user_message for record in instance.all_logs(cleared.run_id)]
    assert "batch 'Prüfung': margin 3 → none" in lines
    assert "prompt 'p': weight 2.5 → none; counts in new reports (doceval report BATCH)" in lines


def test_an_impossible_margin_threshold_or_weight_in_the_launchpad_names_its_key(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    result = create(
        instance,
        name="a",
        folders=[str(tmp_path)],
        connections=[],
        prompts=["p"],
        margin=0,
        new_prompts=[{"name": "p", "text": "How clear?", "threshold": 101.5, "weight": -1}],
    )
    assert failure(result).splitlines()[:3] == [
        "config: new_prompts[0].threshold: must be 100 or less",
        "config: new_prompts[0].weight: must be more than 0",
        "config: connections: is empty: add at least one item",
    ]
    assert "config: margin: must be more than 0" in failure(result).splitlines()
    result = create(
        instance,
        name="a",
        folders=[str(tmp_path)],
        connections=["c"],
        prompts=["p"],
        margin=True,
        new_connections=[{"name": "c", "provider": "ollama", "model": "m"}],
        new_prompts=[{"name": "p", "text": "How clear?", "threshold": False, "weight": True}],
    )
    assert failure(result).splitlines() == [
        "config: new_prompts[0].threshold: must be a number",
        "config: new_prompts[0].weight: must be a number",
        "config: margin: must be a number",
    ]


ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
FAMILY = f"👨\u200d👩\u200d👧 می\u200cخواهم {ENGLAND} ü"


def test_a_name_in_any_script_is_shown_as_it_is_in_tags_and_events(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    located = evaluation_of([{"name": FAMILY, "folders": [str(tmp_path)]}], 1, 1)
    number = apply_evaluation(databases.doc_eval, located).numbers[FAMILY]
    with databases.doc_eval.connect() as connection:
        tags = run_tags(batch_by_id(connection, number))
    assert tags["doceval/batch"] == FAMILY
    result = run(instance, "stage_batch", f"batch-{number:06d}", tags=tags)
    assert instance.get_run_by_id(result.run_id).tags["doceval/batch"] == FAMILY  # type: ignore[union-attr] # it ran
    (sealed,) = result.asset_materializations_for_node("batch_config_snapshot")
    assert sealed.metadata["batch"].value == FAMILY


def test_a_created_batch_says_what_its_folders_hold_and_doceval_s_own_are_refused(
    settings: Settings, databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for name in ("a.pdf", "B.PDF", "Thumbs.db"):
        (tmp_path / name).write_text("x")
    choice: dict[str, Any] = {
        "name": "cases",
        "include": ["*.pdf"],
        "connections": ["c"],
        "prompts": ["p"],
        "new_connections": [{"name": "c", "provider": "ollama", "model": "m"}],
        "new_prompts": [{"name": "p", "text": "How clear?"}],
    }
    result = create(instance, folders=[str(tmp_path)], **choice)
    logged = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.dagster_event is None]
    assert (
        "its folders contain 1 usable file; 2 files skipped: 1 not included by pattern, 1 temporary" in logged
    )
    assert [line for line in logged if "such as 'B.PDF': add to include: '*.PDF'" in line]
    refused = create(instance, folders=[str(settings.home / "dagster")], **choice)
    assert failure(refused).startswith("config: folders[0]: folder ")
    assert "holds doceval's own files (DOCEVAL_HOME)" in failure(refused)


def test_mistakes_in_the_launchpad_name_their_key(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    result = create(
        instance,
        name="7",
        folders=["relative"],
        connections=["c"],
        prompts=["p"],
        new_connections=[{"name": "c", "provider": "openai", "model": "m", "base_url": "nowhere"}],
    )
    assert failure(result).splitlines() == [
        "config: new_connections[0].base_url: must be a URL such as https://api.example.com/v1",
        "config: name: looks like a batch number, and commands accept a number or a name: "
        "choose another name",
        "config: folders[0]: folder 'relative' is relative: write its absolute path",
        "config: prompts[0]: prompt 'p' does not exist: define it under prompts",
    ]
    result = create(instance, name="a", folders=[str(tmp_path)], connections=["c"], prompts=["p"])
    assert failure(result).splitlines() == [
        "config: connections[0]: connection 'c' does not exist: define it under connections",
        "config: prompts[0]: prompt 'p' does not exist: define it under prompts",
    ]
