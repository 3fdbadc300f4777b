"""Archiving as a job, and what the history of a partition says of it."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from doceval_pipeline.cli.runs import restore_and_report
from doceval_pipeline.defs import sensors
from doceval_pipeline_tests.batches.archiving.archives import restore_file
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import failure, run, tick

BatchOf = Callable[..., Sample]


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
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    archived = run(instance, "archive_batch", batch.key).output_for_node("archive_rows")
    instance.delete_dynamic_partition("batches", batch.key)

    path = Path(archived["path"])
    restore_and_report(lambda: restore_file(batch.databases, path))
    assert batch.key in instance.get_dynamic_partitions("batches")
    newest = instance.fetch_observations(dg.AssetKey("completion_report"), limit=1).records[0]
    observed = newest.event_log_entry.asset_observation
    assert observed is not None
    assert observed.partition == batch.key
    assert observed.metadata["archived"].value is False
    assert observed.metadata["archive_sha256"].value == archived["sha256"]
