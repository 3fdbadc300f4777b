"""Everything that imports Dagster: thin definitions. SQL and file access are in `batches`."""
