"""Dagster's own home: its configuration and environment, the same for every process that uses it."""

import os
from importlib.resources import files
from pathlib import Path

import dagster as dg

from doceval_pipeline.batches.databases import (
    DAGSTER,
    DOC_EVAL,
    KNOWLEDGE,
    database_url,
    require_dagster_database,
)
from doceval_pipeline.settings import Settings

LOCATION = "doceval_pipeline"
# The same location name as in the project's workspace.yaml and pyproject.toml: sensors, schedules
# and runs are filed under it.
_WORKSPACE = f"""\
load_from:
  - python_module:
      module_name: doceval_pipeline.definitions
      location_name: {LOCATION}
"""


# Seconds for which Dagster waits for its code server, read from the environment when it is imported. Its
# own limit of 60 s is reached on a machine that is too busy, and a sensor's tick or a run is then given up.
GRPC_LIMITS = {
    "DAGSTER_GRPC_TIMEOUT_SECONDS": "180",
    # A code server that is told to end does not wait as long for calls that hang.
    "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60",
}


def dagster_environment(settings: Settings) -> dict[str, str]:
    """The variables under which plain Dagster commands work on this installation.

    The URLs may hold passwords.
    """
    return {
        "DOCEVAL_HOME": str(settings.home),
        "DOC_EVAL_URL": database_url(settings, DOC_EVAL),
        "KNOWLEDGE_DOCUMENTS_URL": database_url(settings, KNOWLEDGE),
        "DAGSTER_POSTGRES_URL": database_url(settings, DAGSTER),
        "DAGSTER_HOME": str(settings.dagster_home),
    }


def prepare_dagster_home(settings: Settings) -> Path:
    """Write Dagster's configuration where it belongs; returns the path of its workspace file."""
    require_dagster_database(settings)
    settings.dagster_home.mkdir(mode=0o700, parents=True, exist_ok=True)
    configuration = files("doceval_pipeline.defs").joinpath("dagster.yaml").read_text()
    _write_if_different(settings.dagster_home / "dagster.yaml", configuration)
    workspace = settings.dagster_home / "workspace.yaml"
    _write_if_different(workspace, _WORKSPACE)
    return workspace


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance of this installation; what runs in it shows in the UI."""
    prepare_dagster_home(settings)
    os.environ.update(dagster_environment(settings))
    return dg.DagsterInstance.get()


def _write_if_different(path: Path, content: str) -> None:
    if not path.exists() or path.read_text() != content:
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(content)
        partial.replace(path)
