"""What is asked of the results of a batch once its report stands. A warning stops nothing."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from doceval_pipeline.batches.result_checks import Drift, Judged, judge_soundness
from doceval_pipeline.defs.partitions import batch_check_spec
from doceval_pipeline.defs.reporting import completion_report
from doceval_pipeline.defs.resources import DocEval, one_line_failures
from doceval_pipeline.doc_eval.batches import batch_id_of
from doceval_pipeline.reports.untrusted import cut, visible_name

DRIFT, SOUND = "score_drift", "results_are_sound"
NAME_CHARACTERS = 80
# Columns of a batch that are listed; all of them are counted.
COLUMNS_LISTED = 50


@dg.multi_asset_check(
    specs=[
        batch_check_spec(
            DRIFT,
            asset=completion_report.key,
            description="The scores are no others than those of the newest earlier completed batch with the "
            "same connections and prompts, but for chance.",
        ),
        batch_check_spec(
            SOUND,
            asset=completion_report.key,
            description="No succeeded cell is empty, without a score, or has JSON that is none; no column "
            "got the same response for every document.",
        ),
    ],
    can_subset=True,
)
def result_checks(context: dg.AssetCheckExecutionContext, doc_eval: DocEval) -> Iterator[dg.AssetCheckResult]:
    """Both checks in one step, after the report: a step of Dagster costs more than they do."""
    batch_id = batch_id_of(context.partition_key)
    for key in sorted(context.selected_asset_check_keys, key=lambda key: key.name):
        with one_line_failures():
            databases = doc_eval.open()
            if key.name == DRIFT:
                # Loads numpy, which runs that only stage need not wait for.
                from doceval_pipeline.batches.drift import judge_drift

                found = _of_drift(judge_drift(databases, batch_id))
            else:
                found = _of_soundness(judge_soundness(databases, batch_id))
        yield dg.AssetCheckResult(
            check_name=key.name, asset_key=key.asset_key, severity=dg.AssetCheckSeverity.WARN, **found
        )


def _of_drift(drift: Drift) -> dict[str, Any]:
    listed = sorted(drift.columns, key=lambda column: (not column.has_drifted, -abs(column.change or 0.0)))
    columns = [
        dg.TableRecord(
            {
                "connection": _shown(column.connection),
                "prompt": _shown(column.prompt),
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
    previous = {} if drift.previous is None else {"previous_batch": drift.previous}
    return {
        "passed": not drift.drifted,
        "description": drift.sentence,
        "metadata": {**drift.numbers(), **previous, **_table(columns)},
    }


def _of_soundness(judged: Judged) -> dict[str, Any]:
    columns = [
        dg.TableRecord(
            {
                "connection": _shown(judged.names.connection(column.connection_id)),
                "prompt": _shown(judged.names.prompt(column.prompt_id)),
                "succeeded": column.succeeded,
                "empty": column.empty,
                "no JSON": column.not_json,
                "without score": column.without_score,
                "out of range": column.out_of_range,
                "stuck": column.stuck,
            }
        )
        for column in judged.columns
        if not column.is_sound
    ]
    return {
        "passed": judged.is_sound,
        "description": judged.sentence,
        "metadata": {**judged.numbers(), **_table(columns[:COLUMNS_LISTED])},
    }


def _table(records: list[dg.TableRecord]) -> dict[str, dg.TableMetadataValue]:
    """Dagster shows the texts of a table as they are, and not as markdown."""
    return {"by_column": dg.MetadataValue.table(records)} if records else {}


def _shown(name: str) -> str:
    return cut(visible_name(name), NAME_CHARACTERS)
