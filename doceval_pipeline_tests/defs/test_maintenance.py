"""The nightly audit, and the removal of what only grows."""

from collections.abc import Callable

import dagster as dg
from sqlalchemy import create_engine, text

from doceval_pipeline.batches.databases import DAGSTER, Databases, database_url
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import run

BatchOf = Callable[..., Sample]


def dagster_rows(databases: Databases, statement: str) -> list[tuple[object, ...]]:
    engine = create_engine(database_url(databases.settings, DAGSTER))
    with engine.begin() as connection:
        result = connection.execute(text(statement))
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def test_the_audit_passes_and_then_names_what_is_wrong(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    clean = run(instance, "audit_databases", None)
    assert clean.success
    assert [e.passed for e in clean.get_asset_check_evaluations()] == [True]
    batch.knowledge("DELETE FROM batch_configs")
    found = run(instance, "audit_databases", None)
    assert found.success, "the audit itself did its work"
    assert [e.passed for e in found.get_asset_check_evaluations()] == [False]
    (event,) = found.asset_materializations_for_node("audit")
    assert event.metadata["violations"].value == 1
    assert batch.key in str(event.metadata["what_to_do"].value)


def test_old_log_lines_go_and_what_is_known_of_assets_and_runs_stays(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=2)
    done = run(instance, "stage_batch", batch.key)
    run_id = f"'{done.run_id}'"
    for _ in range(3):
        observed = dg.AssetObservation("llm_responses", partition=batch.key)
        instance.report_runless_asset_event(observed)
    lines = f"SELECT count(*) FROM event_logs WHERE run_id = {run_id} AND asset_key IS NULL"
    before = dagster_rows(batch.databases, lines)[0][0]
    assert run(instance, "retention", None).output_for_node("forget_old_events")["log_lines"] == 0
    dagster_rows(batch.databases, "UPDATE event_logs SET timestamp = timestamp - interval '31 days'")
    batch.doc_eval(
        "INSERT INTO batch_progress SELECT :id, now() - interval '40 days' + n * interval '1 second', "
        "n, 0, 0, 0, 0, 0 FROM generate_series(1, 100) n"
    )
    batch.knowledge(
        "INSERT INTO reprocess_requests VALUES (:id, 'new', 1, now()), (:id, 'old', 1, '2001-01-01')"
    )
    removed = run(instance, "retention", None).output_for_node("forget_old_events")
    assert removed["reprocess_requests"] == 1
    assert batch.knowledge("SELECT request FROM reprocess_requests") == [("new",)]
    assert removed["observations"] >= 2
    assert removed["progress_samples"] >= 98
    assert isinstance(before, int)
    assert dagster_rows(batch.databases, lines)[0][0] < before / 3
    assert instance.get_run_by_id(done.run_id).status is dg.DagsterRunStatus.SUCCESS  # type: ignore[union-attr]
    for asset in ("queue_rows", "encoded_documents"):
        assert batch.key in instance.get_materialized_partitions(dg.AssetKey(asset))
    latest = instance.fetch_observations(
        dg.AssetRecordsFilter(dg.AssetKey("llm_responses"), asset_partitions=[batch.key]), limit=10
    )
    assert len(latest.records) == 1
