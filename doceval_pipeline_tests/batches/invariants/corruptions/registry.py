"""All corruptions, by invariant."""

from doceval_pipeline_tests.batches.invariants.corruptions import (
    archives,
    cells,
    configuration,
    contract,
    documents,
    life,
)
from doceval_pipeline_tests.batches.invariants.corruptions.corruption import Corruption

CORRUPTIONS: dict[str, tuple[Corruption, ...]] = (
    configuration.CORRUPTIONS
    | documents.CORRUPTIONS
    | cells.CORRUPTIONS
    | life.CORRUPTIONS
    | contract.CORRUPTIONS
    | archives.CORRUPTIONS
)
