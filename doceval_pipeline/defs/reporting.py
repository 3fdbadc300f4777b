"""The completion report as an asset: the file, and what Dagster shows of it."""

import dagster as dg

from doceval_pipeline.batches.reporting import write_report
from doceval_pipeline.defs.partitions import batches
from doceval_pipeline.defs.resources import DocEval, one_line_failures
from doceval_pipeline.defs.responses import llm_responses
from doceval_pipeline.doc_eval.batches import batch_id_of
from doceval_pipeline.reports.markdown import numeric_metadata, plot_markdown, render_markdown


@dg.asset(partitions_def=batches, group_name="reporting", kinds={"html"}, deps=[llm_responses])
def completion_report(context: dg.AssetExecutionContext, doc_eval: DocEval) -> dg.MaterializeResult[None]:
    """One self-contained HTML file that says what became of every document and cell of the batch."""
    with one_line_failures():
        report = write_report(doc_eval.open(), batch_id_of(context.partition_key))
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
