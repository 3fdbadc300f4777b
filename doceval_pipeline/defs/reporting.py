"""The completion report as an asset: the HTML file, and its summary in Dagster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from doceval_pipeline.batches.locks import number_lock
from doceval_pipeline.batches.results.reporting import WrittenReport, write_report
from doceval_pipeline.defs.catalog import CODE_VERSIONS
from doceval_pipeline.defs.materializations import newest_materializations
from doceval_pipeline.defs.naming import NAME, about, name_of
from doceval_pipeline.defs.partitions import batch_check_spec, batches
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.responses import llm_responses
from doceval_pipeline.defs.staging import (
    batch_config_snapshot,
    document_assignment,
    encoded_documents,
    queue_rows,
)
from doceval_pipeline.defs.steps import NoConfig, open_batch
from doceval_pipeline.doc_eval.runs.requests import PendingRun
from doceval_pipeline.domain.insights import Provenance
from doceval_pipeline.reports.formatting import size_text
from doceval_pipeline.reports.markdown import decision_text, numeric_metadata, plot_markdown, render_markdown

REPORT_IS_WRITTEN = dg.AssetCheckKey(dg.AssetKey("completion_report"), "report_is_written")
# The tag of runs that a sensor requested, and of their retries.
_REQUESTED_BY_SENSOR = "dagster/sensor_name"


@dg.asset(
    partitions_def=batches,
    group_name="reporting",
    kinds={"html"},
    deps=[llm_responses],
    output_required=False,
    code_version=CODE_VERSIONS["completion_report"],
    # Part of the asset's step, because a step of its own would cost more than the check.
    check_specs=[
        batch_check_spec(
            REPORT_IS_WRITTEN.name,
            asset=REPORT_IS_WRITTEN.asset_key,
            description="Checks that a completed batch has a report that includes its newest result.",
        )
    ],
)
def completion_report(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Holds the outcome of every document and evaluation of the batch, in one self-contained HTML file."""
    # Locked until Dagster has stored the events, so that a run that was requested twice sees them.
    with open_batch(context, doc_eval) as (databases, batch_id), number_lock(databases, batch_id):
        report, name = write_report(databases, batch_id, _provenance(context)), name_of(databases, batch_id)
        if _was_requested_twice(context, report.digest):
            context.log.info("the report of these results has already been materialized: nothing to do")
        else:
            context.log.info(
                f"{name}: {report.figures.verdict}; wrote the report {report.path} ({size_text(report.size)})"
            )
            yield _as_materialization(batch_id, name, report)
        yield dg.AssetCheckResult(check_name=REPORT_IS_WRITTEN.name, **_as_check(None, name))


def report_evaluation(missing: PendingRun | None, partition: str, name: str) -> dg.AssetCheckEvaluation:
    """The result of the check `report_is_written` as an event, for the sensor `stalled_work`.

    The sensor records it while the report of a batch is missing, and once the report is written.
    """
    return dg.AssetCheckEvaluation(
        asset_key=REPORT_IS_WRITTEN.asset_key,
        check_name=REPORT_IS_WRITTEN.name,
        partition=partition,
        **_as_check(missing, name),
    )


def _as_check(missing: PendingRun | None, name: str) -> dict[str, Any]:
    return {
        "passed": missing is None,
        "severity": dg.AssetCheckSeverity.WARN,
        **about(
            name,
            "no report is missing" if missing is None else missing.missing_report,
            {} if missing is None else {"attempt": missing.attempt},
        ),
    }


def _as_materialization(batch_id: int, name: str, report: WrittenReport) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        metadata={
            NAME: name,
            "verdict": report.figures.verdict,
            "decision": decision_text(report.figures) or "nothing was evaluated",
            "open": dg.MetadataValue.url(report_link(report.path.name)),
            "how_to_open": f"follow the link if doceval up serves this page, or run doceval open {batch_id}",
            "summary_shows": "what the scores decide, the models under each prompt, and outcomes, tokens, "
            "time and cost of the batch",
            "summary": dg.MetadataValue.md(render_markdown(report.figures)),
            "plot": dg.MetadataValue.md(plot_markdown(report.figures)),
            "report": dg.MetadataValue.path(report.path),
            "dagster/uri": report.path.as_uri(),
            "report_bytes": report.size,
            "result_digest": report.digest,
            **numeric_metadata(report.figures),
        },
        data_version=dg.DataVersion(report.digest),
    )


def _provenance(context: dg.AssetExecutionContext) -> Provenance:
    """The runs that staged the batch, from the latest materialization of each staging asset.

    This run is not included, so that two reports of the same results are identical.
    """
    newest = (
        (asset.key.to_user_string(), _latest(context, asset.key))
        for asset in (batch_config_snapshot, document_assignment, encoded_documents, queue_rows)
    )
    return Provenance(tuple((name, record.run_id) for name, record in newest if record is not None))


def _latest(context: dg.AssetExecutionContext, key: dg.AssetKey) -> dg.EventLogRecord | None:
    """The latest materialization of an asset for this batch."""
    records_filter = dg.AssetRecordsFilter(key, asset_partitions=[context.partition_key])
    return next(iter(context.instance.fetch_materializations(records_filter, limit=1).records), None)


def report_link(name: str) -> str:
    """The absolute path of a report on the webserver of `doceval up`, from its file name."""
    return f"/reports/{name}"


def was_rendered(instance: dg.DagsterInstance, partition: str, name: str) -> bool:
    """Whether this installation has ever materialized a report of a batch with this file name."""
    records_filter = dg.AssetRecordsFilter(completion_report.key, asset_partitions=[partition])
    return any(_file_of(record) == name for record in newest_materializations(instance, records_filter))


def _file_of(record: dg.EventLogRecord) -> str | None:
    """The file name of a materialized report."""
    path = _metadata_of(record, "report")
    return None if path is None else Path(str(path)).name


def _metadata_of(record: dg.EventLogRecord, key: str) -> object:
    materialization = record.asset_materialization
    value = None if materialization is None else materialization.metadata.get(key)
    return None if value is None else value.value


def _was_requested_twice(context: dg.AssetExecutionContext, digest: str) -> bool:
    """Whether a sensor requested this run although the report of these results is already materialized.

    Runs that a person launches always write the report. Run keys are not enough: Dagster stores a run before
    its key, so that a daemon that is killed in between does not recognise the run; and a run that is killed
    after its last step is retried.
    """
    if _REQUESTED_BY_SENSOR not in context.run.tags:
        return False
    record = _latest(context, context.asset_key)
    return record is not None and _metadata_of(record, "result_digest") == digest
