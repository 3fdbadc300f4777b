"""Dagster's home folder: which `dagster.yaml` counts, and how a release changes it. Imports no Dagster."""
