"""The asset that Dagster does not make: what the external processor writes. Observed by a sensor."""

from typing import Any

import dagster as dg

from doceval_pipeline.batches.stalling import STALLED, Judgement, judge_one
from doceval_pipeline.defs.partitions import batch_check, batches
from doceval_pipeline.defs.resources import DocEval, one_line_failures
from doceval_pipeline.defs.staging import queue_rows
from doceval_pipeline.doc_eval.batches import batch_id_of

llm_responses = dg.AssetSpec(
    "llm_responses",
    group_name="external_llm",
    deps=[queue_rows],
    partitions_def=batches,
    kinds={"postgres"},
    description="Results that a processor outside this project writes into "
    "KnowledgeDocuments.llm_responses. Observed as they come in; materialized when the last is done.",
)


@batch_check(asset=llm_responses.key)
def responses_keep_coming(context: dg.AssetCheckExecutionContext, doc_eval: DocEval) -> dg.AssetCheckResult:
    """The batch moves, or rests with reason. Tells an absent processor from a lost and from a slow one."""
    with one_line_failures():
        judgement = judge_one(doc_eval.open(), batch_id_of(context.partition_key))
    return dg.AssetCheckResult(**_as_check(judgement))


def evaluation_of(judgement: Judgement, partition: str) -> dg.AssetCheckEvaluation:
    """The same check's result as an event, for the sensor that looks at all open batches."""
    return dg.AssetCheckEvaluation(
        asset_key=llm_responses.key,
        check_name="responses_keep_coming",
        partition=partition,
        **_as_check(judgement),
    )


def _as_check(judgement: Judgement) -> dict[str, Any]:
    return {
        "passed": judgement.movement not in STALLED,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": judgement.sentence,
        "metadata": {"movement": judgement.movement.value},
    }
