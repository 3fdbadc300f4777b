"""What was asked for and did not happen: runs that were cancelled, died, or never began."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from sqlalchemy import event

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.run_lock import alive
from doceval_pipeline.batches.monitoring.status import batch_progress, lost_without_batch
from doceval_pipeline.batches.staging.reprocessing import cancel_staging
from doceval_pipeline.batches.staging.steps import interrupt_staging, seal_batch
from doceval_pipeline.definitions import own_definitions
from doceval_pipeline.defs import dead_runs, sensors
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.schedules import schedules
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.runs.requests import unreported
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample, evaluation_of
from doceval_pipeline_tests.defs.running import QUIET, definitions, failure, run, tick

BatchOf = Callable[..., Sample]
LATER = "UPDATE run_requests SET due_at = due_at - interval '1 hour'"


@pytest.fixture(autouse=True)
def _no_runs(instance: dg.DagsterInstance) -> None:
    """Batches have numbers of their own, and runs without a batch do not."""
    for found in instance.get_runs(dg.RunsFilter(job_name="create_batch")):
        instance.delete_run(found.run_id)


def launched(
    instance: dg.DagsterInstance, job: str, request: Any = None, key: str | None = None, **options: Any
) -> dg.DagsterRun:
    """A run as Dagster's daemon creates it, which nobody executes."""
    tags = {"dagster/partition": key or request.partition_key} if key or request else {}
    if request is not None:
        tags["dagster/run_key"] = request.run_key
    return instance.create_run_for_job(
        definitions.resolve_job_def(job), tags=tags, status=dg.DagsterRunStatus.NOT_STARTED, **options
    )


def begin(instance: dg.DagsterInstance, started: dg.DagsterRun) -> None:
    begun = DagsterEvent(event_type_value=DagsterEventType.RUN_START.value, job_name=started.job_name)
    instance.report_dagster_event(begun, started.run_id)


def completed(batch: Sample, instance: dg.DagsterInstance) -> Any:
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE batch_id = :id")
    (request,) = tick(sensors.response_status, instance).run_requests
    return request


def notices(batch: Sample) -> str:
    progress = batch_progress(batch.databases, str(batch.id))
    return " | ".join(progress.notices)


def problems(databases: Databases) -> list[str]:
    found = audit_installation(databases, lambda *_: None, every_document=False)
    return [f"{violation.batch}: {violation.problem}" for violation in found]


def named_in(texts: Sequence[str], batch: Sample) -> list[str]:
    """What is said of a batch."""
    return [text for text in texts if text.startswith(batch.key)]


def named(databases: Databases, runs: Sequence[dg.DagsterRun]) -> list[str]:
    """What is said of the given runs; other tests leave runs in the same instance."""
    return [text for text in problems(databases) if any(run.run_id[:8] in text for run in runs)]


def test_a_report_run_that_was_cancelled_is_named_and_asked_for_again(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    request = completed(batch, instance)
    first = launched(instance, "report_batch", request)
    batch.doc_eval(LATER)
    assert not tick(sensors.response_status, instance).run_requests, "its run is still in the queue"
    instance.report_run_canceled(first)
    batch.doc_eval(LATER)
    assert not tick(sensors.response_status, instance).run_requests, "half a minute has not passed"
    assert "attempt 1, the last run ended as CANCELED" in notices(batch)
    assert f"run doceval report {batch.id}" in notices(batch)
    assert [key for key in problems(batch.databases) if batch.key in key]
    recorded = tick(sensors.stalled_work, instance)
    check = [each for each in recorded.asset_events if each.check_name == "report_is_written"]
    assert [(each.partition, each.passed) for each in check] == [(batch.key, False)]

    instance.run_storage.add_run_tags(first.run_id, {})
    ended = instance.get_run_record_by_id(first.run_id)
    assert ended is not None
    assert ended.end_time is not None
    deadline = ended.end_time + 30 - time.time()
    with pytest.MonkeyPatch.context() as patch:
        now = time.time() + deadline + 1
        patch.setattr("doceval_pipeline.defs.requests.time.time", lambda: now)
        batch.doc_eval(LATER)
        (again,) = tick(sensors.response_status, instance).run_requests
    assert again.run_key == f"{request.run_key[:-1]}2"
    assert run(instance, "report_batch", batch.key).success
    assert notices(batch) == ""
    over = tick(sensors.stalled_work, instance, recorded.cursor)
    check = [each for each in over.asset_events if each.check_name == "report_is_written"]
    assert [(each.partition, each.passed) for each in check] == [(batch.key, True)]


def test_status_and_check_agree_on_a_result_that_a_batch_came_back_to(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    completed(batch, instance)
    batch.doc_eval("UPDATE run_requests SET last_end = 'FAILURE', last_ended_at = now()")
    assert "attempt 1" in notices(batch)
    assert "attempt 1" in str(problems(batch.databases))
    batch.doc_eval("UPDATE batches SET completed_at = completed_at + interval '1 ms'")
    assert (notices(batch), problems(batch.databases)) == ("", []), "completed just now"


def test_the_status_of_a_batch_reads_what_is_missing_of_that_batch_only(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    one, other = batch_of(documents=1, name="one"), batch_of(documents=1, name="other")
    for batch in (one, other):
        completed(batch, instance)
    with one.databases.doc_eval.connect() as connection:
        assert set(unreported(connection, [one.id])) == {one.id}
        assert set(unreported(connection)) == {one.id, other.id}
        assert set(unreported(connection, [])) == set()


def test_any_number_of_ticks_queue_one_staging_of_each_saved_batch(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    located = evaluation_of([{"name": name, "folders": [str(tmp_path)]} for name in "abc"])
    numbers = apply_evaluation(databases.doc_eval, located).numbers
    keys = sorted(f"batch-{number:06d}" for number in numbers.values())

    def requested() -> list[str]:
        (schedule,) = (s for s in schedules(Settings(Path("/"))) if s.name == "stage_saved_batches")
        context = dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.now(UTC))
        found = [*schedule(context, doc_eval=DocEval()), *tick(sensors.new_batches, instance).run_requests]
        for request in found:
            launched(instance, "stage_batch", request)
        with databases.doc_eval.begin() as connection:
            connection.exec_driver_sql(LATER)
        return sorted(request.partition_key for request in found)

    assert requested() == keys
    assert requested() == requested() == requested() == []
    apply_evaluation(databases.doc_eval, located, stage=True)
    assert requested() == []


def test_asking_again_for_a_staging_that_never_began_says_so_and_asks_again(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    located = evaluation_of([{"name": "a", "folders": [str(tmp_path)]}])
    applied = apply_evaluation(databases.doc_eval, located, stage=True)
    assert (applied.staging_requested, applied.staging_requested_again) == (["a"], [])
    (request,) = tick(sensors.new_batches, instance).run_requests
    instance.report_run_failed(launched(instance, "stage_batch", request))
    applied = apply_evaluation(databases.doc_eval, located, stage=True)
    assert (applied.staging_requested, applied.staging_requested_again) == ([], ["a"])
    (again,) = tick(sensors.new_batches, instance).run_requests
    assert again.run_key != request.run_key


def asset_run(
    instance: dg.DagsterInstance, batch: Sample, *assets: str, success: bool = True
) -> dg.ExecuteInProcessResult:
    """What a click on Materialize does for some assets of a batch."""
    instance.add_dynamic_partitions("batches", [batch.key])
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey(asset) for asset in assets}
    )
    done = job.execute_in_process(
        instance=instance, partition_key=batch.key, run_config=QUIET, raise_on_error=False
    )
    assert done.success == success
    return done


@pytest.mark.parametrize(
    ("assets", "missing"),
    [
        (["batch_config_snapshot"], "document_assignment, encoded_documents, queue_rows"),
        (["batch_config_snapshot", "document_assignment"], "encoded_documents, queue_rows"),
        (["batch_config_snapshot", "document_assignment", "encoded_documents"], "queue_rows"),
    ],
)
def test_materializing_the_first_assets_alone_is_no_failure(
    batch_of: BatchOf, instance: dg.DagsterInstance, assets: list[str], missing: str
) -> None:
    batch = batch_of(documents=2)
    asset_run(instance, batch, *assets)
    assert batch.status() == "STAGING"
    tick(sensors.staging_failure, instance)
    assert batch.status() == "SAVED"
    said = f"({missing}): materialize the group staging, or run doceval stage {batch.id}"
    assert said in notices(batch)
    assert problems(batch.databases) == []
    batch.doc_eval("UPDATE batches SET stage_requested_at = now() WHERE id = :id")
    assert len(tick(sensors.new_batches, instance).run_requests) == 1
    assert run(instance, "stage_batch", batch.key).success
    assert (batch.status(), notices(batch)) == ("STAGED", "")


def test_materializing_one_asset_of_a_failed_staging_is_no_failure_either(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    asset_run(instance, batch, "batch_config_snapshot", "document_assignment")
    asset_run(instance, batch, "queue_rows", success=False)
    assert batch.status() == "FAILED_STAGING"
    asset_run(instance, batch, "encoded_documents")
    tick(sensors.staging_failure, instance)
    assert batch.status() == "SAVED"
    asset_run(instance, batch, "queue_rows")
    assert batch.status() == "STAGED"


@pytest.mark.parametrize("column", ["stage_requested_at", "stage_after"])
def test_a_requested_staging_that_was_interrupted_is_named_and_asked_for_again(
    batch_of: BatchOf, instance: dg.DagsterInstance, column: str
) -> None:
    batch = batch_of(documents=1)
    batch.doc_eval(f"UPDATE batches SET {column} = now() WHERE id = :id")
    (first,) = tick(sensors.new_batches, instance).run_requests
    seal_batch(batch.databases, batch.id)
    interrupt_staging(batch.databases, batch.id, "the process that staged it is gone")
    assert "staging is requested but not done (attempt 1" in notices(batch)
    assert named_in(problems(batch.databases), batch) == [
        f"{batch.key}: status FAILED_STAGING: its staging is requested: attempt 1"
    ]
    batch.doc_eval(LATER)
    (again,) = tick(sensors.new_batches, instance).run_requests
    assert (again.run_key, again.partition_key) == (first.run_key, batch.key)
    assert run(instance, "stage_batch", batch.key).success
    batch.doc_eval(LATER)
    assert not tick(sensors.new_batches, instance).run_requests
    assert (notices(batch), named_in(problems(batch.databases), batch)) == ("", [])


def test_a_requested_staging_that_fails_for_a_reason_of_its_own_is_answered(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=0)
    batch.doc_eval("UPDATE batches SET stage_requested_at = now() WHERE id = :id")
    assert len(tick(sensors.new_batches, instance).run_requests) == 1
    assert "has no usable document" in failure(run(instance, "stage_batch", batch.key))
    batch.doc_eval(LATER)
    assert not tick(sensors.new_batches, instance).run_requests
    assert (batch.status(), notices(batch)) == ("FAILED_STAGING", "")


def test_a_requested_staging_that_waits_for_long_is_named(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    batch.doc_eval("UPDATE batches SET stage_requested_at = now() WHERE id = :id")
    assert len(tick(sensors.new_batches, instance).run_requests) == 1
    assert (notices(batch), named_in(problems(batch.databases), batch)) == ("", [])
    # Waiting in Dagster's queue, for example.
    batch.doc_eval("UPDATE batches SET stage_requested_at = stage_requested_at - interval '3 minutes'")
    assert "staging is requested but not done" in notices(batch)
    assert len(named_in(problems(batch.databases), batch)) == 1


@pytest.mark.parametrize("status", ["SAVED", "FAILED_STAGING"])
def test_cancelling_a_batch_that_waits_to_be_staged_takes_back_the_request_and_nothing_else(
    batch_of: BatchOf, instance: dg.DagsterInstance, status: str
) -> None:
    batch = batch_of(documents=1)
    if status == "FAILED_STAGING":
        interrupt_staging(batch.databases, batch.id, "a reason")
    batch.doc_eval("UPDATE batches SET stage_requested_at = now() WHERE id = :id")
    assert len(tick(sensors.new_batches, instance).run_requests) == 1
    done = run(instance, "cancel_batch", batch.key)
    assert done.output_for_node("cancel_rows") == {"rows_closed": 0, "staging_requests_withdrawn": 1}
    batch.doc_eval(LATER)
    assert not tick(sensors.new_batches, instance).run_requests
    assert (batch.status(), notices(batch)) == (status, "")
    refused = run(instance, "cancel_batch", batch.key)
    assert f"is {status} and cannot be cancelled" in failure(refused)


def test_a_batch_whose_own_time_has_come_cannot_be_cancelled_before_it_is_staged(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.doc_eval("UPDATE batches SET stage_requested_at = now(), stage_after = now() WHERE id = :id")
    assert not cancel_staging(batch.databases, batch.id)


def test_a_staging_that_waits_for_its_next_run_in_the_queue_is_not_given_up(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    asset_run(instance, batch, "batch_config_snapshot")
    working = launched(instance, "stage_batch", key=batch.key)
    begin(instance, working)
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '1 day' WHERE id = :id")
    tick(sensors.staging_failure, instance)
    assert batch.status() == "STAGING", "its run says that it works"
    assert "no process is working on its staging" in notices(batch)
    instance.report_run_failed(working)
    tick(sensors.staging_failure, instance)
    assert batch.status() == "FAILED_STAGING"


def test_a_staging_whose_run_lives_is_not_abandoned_between_its_steps(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    seal_batch(batch.databases, batch.id)
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '1 day' WHERE id = :id")
    with alive(batch.databases, "a-run", batch.id):
        assert (notices(batch), problems(batch.databases)) == ("", [])
    with alive(batch.databases, "a-run", batch.id + 1):
        assert "no process is working on its staging" in notices(batch)
        assert "no process is staging it" in str(problems(batch.databases))


def test_a_run_without_a_process_is_ended_after_two_checks_and_a_live_one_is_not(
    batch_of: BatchOf, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(documents=1)
    monkeypatch.setattr(dead_runs, "SECONDS_TO_TAKE_LOCK", 0.0)
    ours = launched(instance, "reprocess_batch", key=batch.key)
    cancelled = launched(instance, "archive_batch", key=batch.key)
    for each in (ours, cancelled):
        begin(instance, each)
    instance.report_run_canceling(cancelled)

    def status_of(of: dg.DagsterRun) -> str:
        found = instance.get_run_by_id(of.run_id)
        assert found is not None
        return found.status.value

    tick(dead_runs.dead_runs, instance)
    assert (status_of(ours), status_of(cancelled)) == ("STARTED", "CANCELING"), "missed for a moment only"
    batch.doc_eval("UPDATE live_runs SET missing_since = missing_since - interval '40 s'")
    assert ours.run_id[:8] in str(tick(dead_runs.dead_runs, instance).skip_message)
    assert (status_of(ours), status_of(cancelled)) == ("FAILURE", "CANCELED")
    assert "alive" in str(tick(dead_runs.dead_runs, instance).skip_message)


def test_a_run_of_ours_holds_its_lock_from_its_first_step_to_its_last(
    batch_of: BatchOf, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(documents=1)
    held: list[Any] = []
    look = "SELECT batch_id, missing_since IS NULL, process IS NOT NULL FROM live_runs"

    def meanwhile(*_: Any) -> None:
        monkeypatch.setattr(dead_runs, "SECONDS_MISSED", 0.0)
        held.append((tick(dead_runs.dead_runs, instance).skip_message, batch.doc_eval(look)))

    monkeypatch.setattr("doceval_pipeline.defs.resources.StagingProgress.listener", lambda *_: meanwhile)
    assert run(instance, "stage_batch", batch.key).success
    assert held[0] == ("every run is alive", [(batch.id, True, True)])
    assert batch.doc_eval(look) == []


def test_locked_batches_are_read_once_for_all(batch_of: BatchOf, instance: dg.DagsterInstance) -> None:
    stagings = [batch_of(documents=1, name=name) for name in "abc"]
    for batch in stagings:
        seal_batch(batch.databases, batch.id)
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    engine = stagings[0].databases.doc_eval
    event.listen(engine, "before_cursor_execute", note)
    try:
        tick(sensors.staging_failure, instance)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len([statement for statement in asked if "pg_locks" in statement]) == 1


def test_a_run_of_a_user_is_never_ended(databases: Databases, instance: dg.DagsterInstance) -> None:
    @dg.asset
    def mine() -> None: ...

    job = dg.Definitions([mine]).resolve_implicit_global_asset_job_def()
    own = instance.create_run_for_job(job, asset_selection=frozenset({dg.AssetKey("mine")}))
    assert not dead_runs.takes_lock(own)
    mixed = frozenset({dg.AssetKey("mine"), dg.AssetKey("queue_rows")})
    assert not dead_runs.takes_lock(own._replace(asset_selection=mixed))
    check = frozenset({dg.AssetCheckKey(dg.AssetKey("queue_rows"), "a_check_of_theirs")})
    assert not dead_runs.takes_lock(own._replace(asset_selection=None, asset_check_selection=check))
    assert dead_runs.takes_lock(own._replace(asset_selection=frozenset({dg.AssetKey("queue_rows")})))
    instance.delete_run(own.run_id)


def test_every_job_asset_and_check_of_ours_is_known_to_hold_a_lock() -> None:
    own = own_definitions(Settings.from_environment())
    graph = own.resolve_asset_graph()
    assert {job.name for job in own.jobs or ()} == dead_runs._WITH_LOCK
    assert graph.executable_asset_keys == dead_runs._ASSETS_WITH_LOCK
    assert graph.asset_check_keys == dead_runs._CHECKS_WITH_LOCK


def test_runs_that_ended_before_they_began_are_named_until_a_later_one_begins(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    given = {"name": "a lost one", "folders": ["/x"], "connections": ["c"], "prompts": ["p"]}
    config = {"ops": {"create": {"config": given}}}
    lost = [
        launched(instance, "reprocess_batch", key=batch.key),
        launched(instance, "create_batch", run_config=config),
    ]
    for each in lost:
        instance.report_run_failed(each)
    tick(sensors.stalled_work, instance)
    assert f"run {lost[0].run_id[:8]} of reprocess_batch ended as FAILURE" in notices(batch)
    assert "re-execute it in Dagster's UI" in notices(batch)
    (created,) = (run for run in lost_without_batch(batch.databases) if run.run_id == lost[1].run_id)
    assert "which should have created batch 'a lost one'" in created.sentence
    assert len(named(batch.databases, lost)) == 2
    begin(instance, launched(instance, "reprocess_batch", key=batch.key))
    again = instance.create_run_for_job(
        definitions.resolve_job_def("create_batch"),
        run_config=config,
        parent_run_id=lost[1].run_id,
        root_run_id=lost[1].run_id,
        tags={"dagster/root_run_id": lost[1].run_id, "dagster/parent_run_id": lost[1].run_id},
    )
    begin(instance, again)
    tick(sensors.stalled_work, instance)
    assert notices(batch) == ""
    assert lost[1].run_id not in {run.run_id for run in lost_without_batch(batch.databases)}
    assert named(batch.databases, lost) == []


def test_lost_assets_are_no_longer_named_once_another_job_has_materialized_them(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    keys = {dg.AssetKey("encoded_documents"), dg.AssetKey("queue_rows")}
    lost = instance.create_run_for_job(
        definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys),
        tags={"dagster/partition": batch.key},
        asset_selection=frozenset(keys),
    )
    instance.report_run_failed(lost)
    tick(sensors.stalled_work, instance)
    assert len(named(batch.databases, [lost])) == 1
    begin(instance, launched(instance, "report_batch", key=batch.key))
    tick(sensors.stalled_work, instance)
    assert len(named(batch.databases, [lost])) == 1
    begin(instance, launched(instance, "stage_batch", key=batch.key))
    tick(sensors.stalled_work, instance)
    assert named(batch.databases, [lost]) == []


def test_a_retry_that_began_earlier_does_not_hide_a_lost_one(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)

    def retry_of(first: dg.DagsterRun) -> dg.DagsterRun:
        return instance.create_run_for_job(
            definitions.resolve_job_def("reprocess_batch"),
            parent_run_id=first.run_id,
            root_run_id=first.run_id,
            tags={"dagster/partition": batch.key, "dagster/root_run_id": first.run_id},
        )

    first = launched(instance, "reprocess_batch", key=batch.key)
    second = retry_of(first)
    begin(instance, second)
    instance.report_run_failed(second)
    lost = retry_of(first)
    instance.report_run_failed(lost)
    tick(sensors.stalled_work, instance)
    assert f"run {lost.run_id[:8]} of reprocess_batch" in notices(batch)
