"""All plants, by invariant."""

from doceval_pipeline_tests.batches.invariants.corruptions import (
    archives,
    cells,
    configuration,
    contract,
    documents,
    life,
)
from doceval_pipeline_tests.batches.invariants.corruptions.corruption import Plant

PLANTS: dict[str, tuple[Plant, ...]] = (
    configuration.PLANTS | documents.PLANTS | cells.PLANTS | life.PLANTS | contract.PLANTS | archives.PLANTS
)
