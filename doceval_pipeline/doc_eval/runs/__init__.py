"""The runs of Dagster that doc_eval knows: requested, alive, and lost before they started."""
