"""Reprocessing by the assets themselves, and config: what is given has an effect, or is refused."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import pytest

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging.reprocessing import pause, queue_attempts
from doceval_pipeline.batches.staging.steps import assign_documents, interrupt_staging, seal_batch
from doceval_pipeline.defs import staging
from doceval_pipeline.defs.steps import first_run_of
from doceval_pipeline.errors import StagingError
from doceval_pipeline_tests.conftest import Sample, write_old
from doceval_pipeline_tests.defs.running import QUIET, definitions, failure, run

BatchOf = Callable[..., Sample]
STAGING = ["batch_config_snapshot", "document_assignment", "encoded_documents", "queue_rows"]
AGAIN = {"queue_rows": {"config": {"mode": "failed"}}}
ATTEMPTS = (
    "SELECT attempt, status, count(*) FROM llm_responses WHERE batch_id = :id GROUP BY 1, 2 ORDER BY 1, 2"
)


def materialize(
    instance: dg.DagsterInstance, key: str, assets: list[str], ops: Mapping[str, Any] | None = None
) -> dg.ExecuteInProcessResult:
    """Materialize assets of a batch in one run, as Dagster's page does it."""
    instance.add_dynamic_partitions("batches", [key])
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey(asset) for asset in assets}
    )
    return job.execute_in_process(
        instance=instance, partition_key=key, raise_on_error=False, run_config={**QUIET, "ops": ops or {}}
    )


def completed(batch: Sample, failed: int = 3) -> Sample:
    batch.stage()
    return answered(batch, failed)


def answered(batch: Sample, failed: int) -> Sample:
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F' WHERE id IN "
        "(SELECT id FROM llm_responses WHERE status = 'QUEUED' ORDER BY id LIMIT :failed)",
        failed=failed,
    )
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50 WHERE status = 'QUEUED'")
    poll(batch.databases)
    assert batch.status() == "COMPLETED"
    return batch


def new_attempts(result: dg.ExecuteInProcessResult) -> object:
    (event,) = result.asset_materializations_for_node("queue_rows")
    return event.metadata["new_attempts"].value


@pytest.mark.parametrize("assets", [["queue_rows"], STAGING])
def test_failed_evaluations_are_done_again_by_materializing_queue_rows(
    batch_of: BatchOf, instance: dg.DagsterInstance, assets: list[str]
) -> None:
    batch = completed(batch_of(documents=2))
    assert new_attempts(materialize(instance, batch.key, assets)) == 0
    assert batch.status() == "COMPLETED", "missing changes nothing where all is there"
    assert new_attempts(materialize(instance, batch.key, assets, AGAIN)) == 3
    assert batch.status() == "STAGED"
    assert new_attempts(materialize(instance, batch.key, assets, AGAIN)) == 0, "they wait"
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 3), (1, "S", 5), (2, "QUEUED", 3)]
    answered(batch, failed=1)
    all_again = {"queue_rows": {"config": {"mode": "all"}}}
    assert new_attempts(materialize(instance, batch.key, assets, all_again)) == 8


def test_a_rescan_by_materializing_document_assignment_alone(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = completed(batch_of(documents=2))
    write_old(batch.folder / "new.txt", "a file that came later")
    rescan = {"document_assignment": {"config": {"rescan": True}}}
    for config, found in (({}, 0), (rescan, 1), (rescan, 0)):
        result = materialize(instance, batch.key, ["document_assignment"], config)
        (event,) = result.asset_materializations_for_node("document_assignment")
        assert event.metadata["files_new"].value == found
    assert batch.status() == "COMPLETED"
    assert "materialize encoded_documents first" in failure(materialize(instance, batch.key, ["queue_rows"]))
    assert materialize(instance, batch.key, ["encoded_documents", "queue_rows"]).success
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 3), (1, "QUEUED", 4), (1, "S", 5)]


def test_a_batch_that_was_never_staged_is_staged_by_the_whole_group_with_any_config(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    config = {**AGAIN, "document_assignment": {"config": {"rescan": True}}}
    assert new_attempts(materialize(instance, batch.key, STAGING, config)) == 0
    assert batch.knowledge(ATTEMPTS) == [(1, "QUEUED", 4)]


def _saved(_: Sample) -> None:
    pass


def _failed_staging(batch: Sample) -> None:
    seal_batch(batch.databases, batch.id)
    interrupt_staging(batch.databases, batch.id, "somebody unplugged it")


def _half_staged(batch: Sample) -> None:
    seal_batch(batch.databases, batch.id)


def _not_stored(batch: Sample) -> None:
    seal_batch(batch.databases, batch.id)
    assign_documents(batch.databases, batch.id)


def _paused(batch: Sample) -> None:
    batch.stage()
    pause(batch.databases, batch.id)


def _archived(batch: Sample) -> None:
    completed(batch)
    archive(batch.databases, batch.id, lambda *_: None, lambda *_: None)


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        (_saved, "is SAVED and has nothing to reprocess: stage it first"),
        (_failed_staging, "is FAILED_STAGING and has nothing to reprocess: stage it first"),
        (_half_staged, "is being staged and has nothing to reprocess: wait until it is STAGED"),
        (_not_stored, "is being staged and has nothing to reprocess: wait until it is STAGED"),
        (_paused, "is paused, but new rows would not be: run doceval resume"),
        (_archived, "is archived: run doceval restore"),
    ],
)
def test_a_batch_that_cannot_be_reprocessed_says_why_and_stays_as_it_is(
    batch_of: BatchOf, instance: dg.DagsterInstance, prepare: Callable[[Sample], None], line: str
) -> None:
    batch = batch_of(documents=1)
    prepare(batch)
    everything = "SELECT b::text FROM batches b"
    before = batch.doc_eval(everything)
    said = failure(materialize(instance, batch.key, ["queue_rows"], AGAIN))
    assert said.startswith(batch.key)
    assert line in said
    assert batch.doc_eval(everything) == before


def test_a_cancelled_batch_can_be_reprocessed(batch_of: BatchOf, instance: dg.DagsterInstance) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    run(instance, "cancel_batch", batch.key)
    poll(batch.databases)
    assert new_attempts(materialize(instance, batch.key, ["queue_rows"], AGAIN)) == 4
    assert batch.doc_eval("SELECT status, cancelled_at FROM batches") == [("STAGED", None)]


def every_job() -> list[dg.JobDefinition]:
    repository = definitions.get_repository_def()
    return [repository.get_job(job.name) for job in repository.get_all_jobs()]


def every_node() -> list[tuple[str, str]]:
    # In order, because Dagster's is another in each process, and tests run in two.
    return sorted((job.name, node.name) for job in every_job() for node in job.nodes)


@pytest.mark.parametrize(("job", "node"), every_node())
def test_every_asset_check_and_op_refuses_config_that_it_does_not_know(job: str, node: str) -> None:
    definition = definitions.get_repository_def().get_job(job)
    with pytest.raises(dg.DagsterInvalidConfigError, match='unexpected config entry "nonsense"'):
        dg.validate_run_config(definition, {"ops": {node: {"config": {"nonsense": 1}}}})


@pytest.mark.parametrize("mode", ["Failed", "", 1, ["failed"]])
def test_a_mode_that_is_none_is_refused(mode: object) -> None:
    job = definitions.resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.DagsterInvalidConfigError, match="root:ops:queue_rows:config:mode"):
        dg.validate_run_config(job, {"ops": {"queue_rows": {"config": {"mode": mode}}}})


def test_a_mode_of_null_is_the_default_as_the_schema_says(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = completed(batch_of(documents=1))
    for given in ({"config": {"mode": None}}, {"config": {}}, {}):
        assert new_attempts(materialize(instance, batch.key, ["queue_rows"], {"queue_rows": given})) == 0


@pytest.mark.parametrize(
    ("assets", "given"),
    [
        (["queue_rows"], {"document_assignment": {"config": {"rescan": True}}}),
        (["encoded_documents"], AGAIN),
        (["queue_rows"], {**AGAIN, "documents_round_trip": {"config": {"documents": 1}}}),
        (["leaderboard"], AGAIN),
        (["completion_report"], {"no_such_op": {"config": {}}}),
    ],
)
def test_config_for_what_is_not_in_the_run_is_refused_by_its_first_step(
    batch_of: BatchOf, instance: dg.DagsterInstance, assets: list[str], given: dict[str, Any]
) -> None:
    batch = completed(batch_of(documents=1))
    before = batch.knowledge(ATTEMPTS)
    said = failure(materialize(instance, batch.key, assets, given))
    stranger = (given.keys() - set(assets)).pop()
    assert said.startswith(f"the config has ops.{stranger}, but this run does not execute {stranger}")
    assert batch.knowledge(ATTEMPTS) == before


def stage_job() -> dg.JobDefinition:
    return definitions.resolve_job_def("stage_batch")


def again_from_failure(instance: dg.DagsterInstance, run_id: str, **tags: str) -> dg.JobExecutionResult:
    options = dg.ReexecutionOptions.from_failure(run_id, instance)
    return dg.execute_job(
        dg.reconstructable(stage_job),
        instance,
        reexecution_options=options,
        run_config={**QUIET, "ops": AGAIN},
        tags={**instance.get_run_by_id(run_id).tags, **tags},  # type: ignore[union-attr] # it is there
    )


@pytest.mark.parametrize("tags", [{"dagster/retry_number": "1"}, {"dagster/is_resume_retry": "true"}])
def test_a_run_that_is_tried_again_makes_no_attempts_after_its_own_failed_again(
    batch_of: BatchOf, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str]
) -> None:
    batch = completed(batch_of(documents=2))

    def killed_after(*given: Any) -> None:
        queue_attempts(*given)
        raise StagingError("it ended right after its commit")

    monkeypatch.setattr(staging, "queue_attempts", killed_after)
    first = run(instance, "stage_batch", batch.key, run_config={**QUIET, "ops": AGAIN})
    assert failure(first) == "it ended right after its commit"
    second = again_from_failure(instance, first.run_id, **tags)
    assert not second.success
    monkeypatch.undo()
    batch.knowledge("UPDATE llm_responses SET status = 'F' WHERE attempt = 2")
    poll(batch.databases)
    third = again_from_failure(instance, second.run_id, **tags)
    assert third.success
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 3), (1, "S", 5), (2, "F", 3)]
    assert new_attempts(materialize(instance, batch.key, ["queue_rows"], AGAIN)) == 3, (
        "a new launch makes new ones"
    )


def a_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, **more: Any) -> dg.DagsterRun:
    keys = frozenset({dg.AssetKey("queue_rows")})
    given = dg.DagsterRun("__ASSET_JOB", status=status, **{"asset_selection": keys, **more})
    instance.run_storage.add_run(given)
    return given


def test_a_backfill_that_is_executed_again_goes_on_only_where_the_first_failed(
    instance: dg.DagsterInstance,
) -> None:
    def tags(backfill: str, key: str, parent: str | None = None) -> dict[str, str]:
        found = {"dagster/backfill": backfill, "dagster/partition": key}
        return {**found, "dagster/parent_backfill_id": parent} if parent else found

    failed = a_run(instance, dg.DagsterRunStatus.FAILURE, tags=tags("one", "batch-000001"))
    other = frozenset({dg.AssetKey("completion_report")})
    a_run(instance, dg.DagsterRunStatus.SUCCESS, tags=tags("one", "batch-000001"), asset_selection=other)
    a_run(instance, dg.DagsterRunStatus.SUCCESS, tags=tags("one", "batch-000002"))
    again = a_run(instance, dg.DagsterRunStatus.FAILURE, tags=tags("two", "batch-000001", "one"))
    assert first_run_of(instance, again) == failed.run_id
    third = a_run(instance, dg.DagsterRunStatus.STARTED, tags=tags("three", "batch-000001", "two"))
    assert first_run_of(instance, third) == failed.run_id
    wanted = a_run(instance, dg.DagsterRunStatus.STARTED, tags=tags("two", "batch-000002", "one"))
    assert first_run_of(instance, wanted) == wanted.run_id
    whole = a_run(
        instance, dg.DagsterRunStatus.STARTED, parent_run_id=failed.run_id, root_run_id=failed.run_id
    )
    assert first_run_of(instance, whole) == whole.run_id, "a person executed all of it again"


def test_a_run_that_is_executed_again_as_a_whole_is_a_new_request_whatever_tags_it_inherits(
    instance: dg.DagsterInstance,
) -> None:
    done = a_run(instance, dg.DagsterRunStatus.SUCCESS)
    failed = a_run(instance, dg.DagsterRunStatus.FAILURE)
    resumed = {"dagster/is_asset_resume_retry": "true"}
    for parent, first in ((done, None), (failed, failed)):
        again = a_run(
            instance,
            dg.DagsterRunStatus.STARTED,
            parent_run_id=parent.run_id,
            root_run_id=parent.run_id,
            tags=resumed,
        )
        assert first_run_of(instance, again) == (again if first is None else first).run_id
    instance.delete_run(failed.run_id)
    assert first_run_of(instance, again) == failed.run_id, "somebody deleted the run that it goes on with"
