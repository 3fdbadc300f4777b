"""The progress of batches: completion, stalls, throughput, status, and the runs that Dagster must start."""
