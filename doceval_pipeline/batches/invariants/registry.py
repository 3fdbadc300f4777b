"""All invariants, in the order in which they are asked and stand in docs/invariants.md."""

from doceval_pipeline.batches.invariants import archives, cells, configuration, contract, documents, life

INVARIANTS = (
    *configuration.INVARIANTS,
    *documents.INVARIANTS,
    *cells.INVARIANTS,
    *life.INVARIANTS,
    *contract.INVARIANTS,
    *archives.INVARIANTS,
)
