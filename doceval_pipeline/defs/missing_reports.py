"""The check that a closed batch has the report of its newest result.

Not asked in the run that writes the report: a step of Dagster costs more than the answer. The sensor
`stalled_work` records it while the report is missing, and once it is written.
"""

from typing import Any

import dagster as dg

from doceval_pipeline.batches.requests import missing_reports
from doceval_pipeline.defs.naming import about, name_of
from doceval_pipeline.defs.partitions import batch_check
from doceval_pipeline.defs.reporting import REPORT_IS_WRITTEN, completion_report
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import NoConfig, open_batch
from doceval_pipeline.doc_eval.run_requests import Waiting


@batch_check(asset=completion_report, name=REPORT_IS_WRITTEN.name)
def report_is_written(
    context: dg.AssetCheckExecutionContext, config: NoConfig, doc_eval: DocEval
) -> dg.AssetCheckResult:
    """A completed batch has the report of its newest result."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        found, name = missing_reports(databases, [batch_id]).get(batch_id), name_of(databases, batch_id)
    return dg.AssetCheckResult(**_as_check(found, name))


def report_evaluation(found: Waiting | None, partition: str, name: str) -> dg.AssetCheckEvaluation:
    """The same check's result as an event, for the sensor; `found` is None where no report is missing."""
    return dg.AssetCheckEvaluation(
        asset_key=REPORT_IS_WRITTEN.asset_key,
        check_name=REPORT_IS_WRITTEN.name,
        partition=partition,
        **_as_check(found, name),
    )


def _as_check(found: Waiting | None, name: str) -> dict[str, Any]:
    return {
        "passed": found is None,
        "severity": dg.AssetCheckSeverity.WARN,
        **about(
            name,
            "no report is missing" if found is None else found.missing_report,
            {} if found is None else {"attempt": found.attempt},
        ),
    }
