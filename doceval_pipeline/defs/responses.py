"""The external asset `llm_responses`: the results of the processor. A sensor observes it."""

from typing import Any

import dagster as dg

from doceval_pipeline.batches.monitoring.stalls import STALLED, StallAssessment, assess_batch
from doceval_pipeline.defs.catalog import CURRENT_LLM_RESPONSES
from doceval_pipeline.defs.naming import about, name_of
from doceval_pipeline.defs.partitions import batch_check, batches
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.staging import queue_rows
from doceval_pipeline.defs.steps import NoConfig, open_batch

llm_responses = dg.AssetSpec(
    "llm_responses",
    group_name="external_llm",
    deps=[queue_rows],
    partitions_def=batches,
    kinds={"postgres"},
    metadata=CURRENT_LLM_RESPONSES.metadata,
    tags=CURRENT_LLM_RESPONSES.tags,
    description="Holds the results that a processor outside this project writes into "
    "KnowledgeDocuments.llm_responses. Observed as results arrive, and materialized after the last one.",
)


@batch_check(asset=llm_responses.key)
def responses_keep_coming(
    context: dg.AssetCheckExecutionContext, config: NoConfig, doc_eval: DocEval
) -> dg.AssetCheckResult:
    """Checks that the batch progresses or has no pending work.

    Distinguishes absent, lost and slow processors.
    """
    with open_batch(context, doc_eval) as (databases, batch_id):
        assessment, name = assess_batch(databases, batch_id), name_of(databases, batch_id)
    context.log.info(f"{name}: {assessment.sentence}")
    return dg.AssetCheckResult(**_as_check(assessment, name))


def evaluation_of(assessment: StallAssessment, partition: str, name: str) -> dg.AssetCheckEvaluation:
    """The result of the check `responses_keep_coming` as an event, for the sensor `stalled_work`."""
    return dg.AssetCheckEvaluation(
        asset_key=llm_responses.key,
        check_name="responses_keep_coming",
        partition=partition,
        **_as_check(assessment, name),
    )


def _as_check(assessment: StallAssessment, name: str) -> dict[str, Any]:
    return {
        "passed": assessment.state not in STALLED,
        "severity": dg.AssetCheckSeverity.WARN,
        **about(name, assessment.sentence, {"movement": assessment.state.value}),
    }
