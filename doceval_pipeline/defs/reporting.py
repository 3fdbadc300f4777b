"""The completion report as an asset: the file, and what Dagster shows of it."""

from collections.abc import Iterator

import dagster as dg

from doceval_pipeline.batches.reporting import WrittenReport, write_report
from doceval_pipeline.batches.staging import number_lock
from doceval_pipeline.defs.partitions import batches
from doceval_pipeline.defs.resources import DocEval, one_line_failures
from doceval_pipeline.defs.responses import llm_responses
from doceval_pipeline.defs.staging import (
    batch_config_snapshot,
    document_assignment,
    encoded_documents,
    queue_rows,
)
from doceval_pipeline.doc_eval.batches import batch_id_of
from doceval_pipeline.reports.insights import Provenance
from doceval_pipeline.reports.markdown import numeric_metadata, plot_markdown, render_markdown

REPORT_IS_WRITTEN = dg.AssetCheckKey(dg.AssetKey("completion_report"), "report_is_written")
# The tag of runs that a sensor asked for, and of their retries.
_ASKED_BY_SENSOR = "dagster/sensor_name"


@dg.asset(
    partitions_def=batches,
    group_name="reporting",
    kinds={"html"},
    deps=[llm_responses],
    output_required=False,
)
def completion_report(
    context: dg.AssetExecutionContext, doc_eval: DocEval
) -> Iterator[dg.MaterializeResult[None]]:
    """One self-contained HTML file that says what became of every document and cell of the batch."""
    batch_id = batch_id_of(context.partition_key)
    with one_line_failures():
        databases = doc_eval.open()
        # Until Dagster has stored what is yielded, so that a run that was asked for twice sees it.
        with number_lock(databases, batch_id):
            report = write_report(databases, batch_id, _provenance(context))
            if _was_asked_twice(context, report.digest):
                context.log.info("the report of these results was materialized before, and stands")
            else:
                yield _as_materialization(report)


def _as_materialization(report: WrittenReport) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        metadata={
            "verdict": report.figures.verdict,
            "summary": dg.MetadataValue.md(render_markdown(report.figures)),
            "plot": dg.MetadataValue.md(plot_markdown(report.figures)),
            "report": dg.MetadataValue.path(report.path),
            "report_bytes": report.size,
            "result_digest": report.digest,
            **numeric_metadata(report.figures),
        },
        data_version=dg.DataVersion(report.digest),
    )


def _provenance(context: dg.AssetExecutionContext) -> Provenance:
    """The runs that staged the batch, by what they materialized last.

    This run is not among them: a report that is written twice of the same results is the same.
    """
    newest = (
        (asset.key.to_user_string(), _newest(context, asset.key))
        for asset in (batch_config_snapshot, document_assignment, encoded_documents, queue_rows)
    )
    return Provenance(tuple((name, record.run_id) for name, record in newest if record is not None))


def _newest(context: dg.AssetExecutionContext, key: dg.AssetKey) -> dg.EventLogRecord | None:
    """The newest materialization of an asset of this batch."""
    wanted = dg.AssetRecordsFilter(key, asset_partitions=[context.partition_key])
    return next(iter(context.instance.fetch_materializations(wanted, limit=1).records), None)


def _was_asked_twice(context: dg.AssetExecutionContext, digest: str) -> bool:
    """Whether a sensor has the report of these results already; a person may have it any number of times.

    Run keys are not enough: Dagster stores a run before its key, and a daemon that is killed in between
    does not know the run again; and a run that is killed after its last step is tried again.
    """
    if _ASKED_BY_SENSOR not in context.run.tags:
        return False
    record = _newest(context, context.asset_key)
    if record is None or record.asset_materialization is None:
        return False
    return record.asset_materialization.metadata.get("result_digest") == dg.MetadataValue.text(digest)
