"""The checks of results run in the same run as the report, after it, and only warn."""

from collections.abc import Callable

import dagster as dg

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import run

BatchOf = Callable[..., Sample]


def answered(batch: Sample, answer: str) -> Sample:
    batch.stage()
    batch.knowledge(f"UPDATE llm_responses SET status = 'S', {answer} WHERE batch_id = :id")
    poll(batch.databases)
    return batch


def test_both_checks_come_after_the_report_in_one_step_and_warn_of_what_they_find(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    answered(batch_of(documents=12, name="a"), "overall_score = 90, response_text = 'the same'")
    batch = answered(batch_of(documents=12, name="b"), "overall_score = 10, response_text = 'the same'")
    result = run(instance, "report_batch", batch.key)
    assert result.success
    kinds = [event.event_type_value for event in result.all_events]
    assert kinds.index("ASSET_MATERIALIZATION") < kinds.index("ASSET_CHECK_EVALUATION")
    assert kinds.count("STEP_SUCCESS") == 2
    found = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert found.keys() == {"report_is_written", "score_drift", "results_are_sound"}
    assert found.pop("report_is_written").passed
    for check in found.values():
        assert (check.passed, check.severity, check.partition) == (
            False,
            dg.AssetCheckSeverity.WARN,
            batch.key,
        )
    assert found["score_drift"].metadata["columns_drifted"].value == 4
    assert found["results_are_sound"].metadata["columns_stuck"].value == 4


def test_an_unchanged_report_is_not_checked_again(batch_of: BatchOf, instance: dg.DagsterInstance) -> None:
    batch = answered(batch_of(documents=1), "overall_score = 50, response_text = 'fine'")
    by_sensor = {"dagster/sensor_name": "response_status"}
    first = run(instance, "report_batch", batch.key, tags=by_sensor)
    assert [check.passed for check in first.get_asset_check_evaluations()] == [True, True, True]
    second = run(instance, "report_batch", batch.key, tags=by_sensor)
    assert second.success
    (check,) = second.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("report_is_written", True)
