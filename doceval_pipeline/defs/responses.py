"""The asset that Dagster does not make: what the external processor writes. Observed by a sensor."""

import dagster as dg

from doceval_pipeline.defs.partitions import batches
from doceval_pipeline.defs.staging import queue_rows

llm_responses = dg.AssetSpec(
    "llm_responses",
    group_name="external_llm",
    deps=[queue_rows],
    partitions_def=batches,
    kinds={"postgres"},
    description="Results that a processor outside this project writes into "
    "KnowledgeDocuments.llm_responses. Observed as they come in; materialized when the last is done.",
)
