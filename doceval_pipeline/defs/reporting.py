"""The completion report as an asset: the file, and what Dagster shows of it."""

from collections.abc import Iterator

import dagster as dg

from doceval_pipeline.batches.reporting import WrittenReport, write_report
from doceval_pipeline.batches.staging import number_lock
from doceval_pipeline.defs.partitions import batches
from doceval_pipeline.defs.resources import DocEval, one_line_failures
from doceval_pipeline.defs.responses import llm_responses
from doceval_pipeline.doc_eval.batches import batch_id_of
from doceval_pipeline.reports.markdown import numeric_metadata, plot_markdown, render_markdown

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
            report = write_report(databases, batch_id)
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


def _was_asked_twice(context: dg.AssetExecutionContext, digest: str) -> bool:
    """Whether a sensor has the report of these results already; a person may have it any number of times.

    Run keys are not enough: Dagster stores a run before its key, and a daemon that is killed in between
    does not know the run again; and a run that is killed after its last step is tried again.
    """
    if _ASKED_BY_SENSOR not in context.run.tags:
        return False
    newest = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(context.asset_key, asset_partitions=[context.partition_key]), limit=1
    )
    wanted = dg.MetadataValue.text(digest)
    return any(
        record.asset_materialization is not None
        and record.asset_materialization.metadata.get("result_digest") == wanted
        for record in newest.records
    )
