"""All invariants, in the order of docs/invariants.md, which is also the order of execution."""

from doceval_pipeline.batches.invariants import archives, cells, configuration, contract, documents, life

INVARIANTS = (
    *configuration.INVARIANTS,
    *documents.INVARIANTS,
    *cells.INVARIANTS,
    *life.INVARIANTS,
    *contract.INVARIANTS,
    *archives.INVARIANTS,
)
