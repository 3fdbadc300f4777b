"""Everything that imports Dagster. Thin: no SQL and no file is touched here, `batches` does that."""
