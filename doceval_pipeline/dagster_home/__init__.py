"""Dagster's home folder: its `dagster.yaml`, and how a release updates it. Does not import Dagster."""
