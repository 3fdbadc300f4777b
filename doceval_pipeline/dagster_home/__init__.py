"""Dagster's home folder: which `dagster.yaml` counts there, and how a release changes it. Does not import Dagster."""
