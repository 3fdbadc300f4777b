"""One dynamic partition per batch. Partitions are added by the sensor `new_batches`, never deleted."""

import dagster as dg

NAME = "batches"
batches = dg.DynamicPartitionsDefinition(name=NAME)
