"""The asset that Dagster does not make: what the external processor writes. Observed by a sensor."""

from typing import Any

import dagster as dg

from doceval_pipeline.batches.monitoring.stalls import STALLED, Judgement, judge_one
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
    description="Results that a processor outside this project writes into "
    "KnowledgeDocuments.llm_responses. Observed as they come in; materialized when the last is done.",
)


@batch_check(asset=llm_responses.key)
def responses_keep_coming(
    context: dg.AssetCheckExecutionContext, config: NoConfig, doc_eval: DocEval
) -> dg.AssetCheckResult:
    """The batch moves, or rests with reason. Tells an absent processor from a lost and from a slow one."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        judgement, name = judge_one(databases, batch_id), name_of(databases, batch_id)
    context.log.info(f"{name}: {judgement.sentence}")
    return dg.AssetCheckResult(**_as_check(judgement, name))


def evaluation_of(judgement: Judgement, partition: str, name: str) -> dg.AssetCheckEvaluation:
    """The same check's result as an event, for the sensor that looks at all open batches."""
    return dg.AssetCheckEvaluation(
        asset_key=llm_responses.key,
        check_name="responses_keep_coming",
        partition=partition,
        **_as_check(judgement, name),
    )


def _as_check(judgement: Judgement, name: str) -> dict[str, Any]:
    return {
        "passed": judgement.movement not in STALLED,
        "severity": dg.AssetCheckSeverity.WARN,
        **about(name, judgement.sentence, {"movement": judgement.movement.value}),
    }
