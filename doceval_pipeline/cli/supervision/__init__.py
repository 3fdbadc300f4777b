"""Starts, watches and stops the processes of one installation: Dagster's and the embedded server."""
