"""Checks of a batch's results, run after its report. They only warn and never block anything."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from doceval_pipeline.batches.results.checks import ResultQuality, ScoreDrift, judge_quality
from doceval_pipeline.defs.naming import about, name_of, shown_name
from doceval_pipeline.defs.partitions import batch_check_spec
from doceval_pipeline.defs.reporting import completion_report
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import NoConfig, open_batch

DRIFT, SOUND = "score_drift", "results_are_sound"
# Most columns that are listed; all are counted.
COLUMNS_LISTED = 50


@dg.multi_asset_check(
    specs=[
        batch_check_spec(
            DRIFT,
            asset=completion_report.key,
            description="Checks that scores do not differ significantly from the drift baseline: the newest "
            "earlier completed batch with the same connections and prompts.",
        ),
        batch_check_spec(
            SOUND,
            asset=completion_report.key,
            description="Checks that every successful evaluation has a response, a score and valid JSON, and "
            "that no connection gives the same response to a prompt for every document.",
        ),
    ],
    can_subset=True,
)
def result_checks(
    context: dg.AssetCheckExecutionContext, config: NoConfig, doc_eval: DocEval
) -> Iterator[dg.AssetCheckResult]:
    """Both checks in one step, because a step of Dagster takes longer than they do."""
    for key in sorted(context.selected_asset_check_keys, key=lambda key: key.name):
        with open_batch(context, doc_eval) as (databases, batch_id):
            name = name_of(databases, batch_id)
            if key.name == DRIFT:
                # Loads numpy, which runs that only stage do not need.
                from doceval_pipeline.batches.results.score_drift import judge_drift

                result = _drift_result(name, judge_drift(databases, batch_id))
            else:
                result = _quality_result(name, judge_quality(databases, batch_id))
        context.log.info(f"{key.name}: {result['description']}")
        yield dg.AssetCheckResult(
            check_name=key.name, asset_key=key.asset_key, severity=dg.AssetCheckSeverity.WARN, **result
        )


def _drift_result(name: str, drift: ScoreDrift) -> dict[str, Any]:
    listed = sorted(drift.columns, key=lambda column: (not column.has_drifted, -abs(column.change or 0.0)))
    columns = [
        dg.TableRecord(
            {
                "connection": shown_name(column.connection),
                "prompt": shown_name(column.prompt),
                "scored before": column.before,
                "scored now": column.now,
                "compared": f"{column.pairs} pairs" if column.pairs else "different documents",
                "change": None if column.change is None else round(column.change, 3),
                "p": None if column.p is None else float(f"{column.p:.2g}"),
                "drifted": column.has_drifted,
            }
        )
        for column in listed[:COLUMNS_LISTED]
    ]
    baseline = {} if drift.baseline is None else {"previous_batch": drift.baseline}
    return {
        "passed": not drift.drifted,
        **about(name, drift.sentence, {**drift.numbers(), **baseline, **_table(columns)}),
    }


def _quality_result(name: str, quality: ResultQuality) -> dict[str, Any]:
    columns = [
        dg.TableRecord(
            {
                "connection": shown_name(quality.labels.connection(column.connection_id)),
                "prompt": shown_name(quality.labels.prompt(column.prompt_id)),
                "succeeded": column.succeeded,
                "empty": column.empty,
                "no JSON": column.not_json,
                "without score": column.without_score,
                "out of range": column.out_of_range,
                "numbers dropped": column.impossible_numbers,
                "stuck": column.stuck,
            }
        )
        for column in quality.columns
        if not column.is_sound
    ]
    return {
        "passed": quality.is_sound,
        **about(name, quality.sentence, {**quality.numbers(), **_table(columns[:COLUMNS_LISTED])}),
    }


def _table(records: list[dg.TableRecord]) -> dict[str, dg.TableMetadataValue]:
    """A table as metadata; Dagster shows its texts literally, not as markdown."""
    return {"by_column": dg.MetadataValue.table(records)} if records else {}
