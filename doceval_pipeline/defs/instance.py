"""Dagster's own home: its configuration and environment, the same for every process that uses it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._check import CheckError
from dagster._core.errors import DagsterImportError
from dagster_postgres.utils import DagsterPostgresException
from dagster_shared.utils import environ

from doceval_pipeline.batches.databases import (
    DAGSTER,
    DOC_EVAL,
    KNOWLEDGE,
    database_url,
    require_dagster_database,
)
from doceval_pipeline.dagster_home.configuration import NAME, place_configuration, write_if_different
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings, project_root

LOCATION = "doceval_pipeline"
REFUSALS = (dg.DagsterInvalidConfigError, CheckError, DagsterImportError, DagsterPostgresException)
# Dagster goes on with the whole schema, or with a stack.
_END_OF_REASON = re.compile(r"\.? (?:Expected: |You must provide this value|Stack Trace)")
# The same location name as in the project's workspace.yaml and pyproject.toml: sensors, schedules
# and runs are filed under it.
_WORKSPACE = f"""\
load_from:
  - python_module:
      module_name: doceval_pipeline.definitions
      location_name: {LOCATION}
"""


def dagster_environment(settings: Settings) -> dict[str, str]:
    """The variables under which plain Dagster commands work on this installation.

    The URLs may hold passwords.
    """
    return {
        "DOCEVAL_HOME": str(settings.home),
        "DOC_EVAL_URL": database_url(settings, DOC_EVAL),
        "KNOWLEDGE_DOCUMENTS_URL": database_url(settings, KNOWLEDGE),
        "DAGSTER_POSTGRES_URL": database_url(settings, DAGSTER),
        "DAGSTER_HOME": str(_home_of_configuration(settings)),
    }


def prepare_dagster_home(settings: Settings) -> Path:
    """Make Dagster's database and home ready; returns the path of its workspace file.

    Raises
    ------
    ConfigurationError
        Dagster refuses its `dagster.yaml`; also as `require_dagster_database` and `place_configuration`.
    """
    workspace = _place_files(settings)
    # What cannot be opened is told here, and not in the log of a daemon.
    with (
        environ(dagster_environment(settings)),
        _refusals_in_one_line(settings),
        dg.DagsterInstance.get() as opened,
    ):
        # Made when they are first used.
        _ = opened.run_launcher, opened.run_coordinator
    return workspace


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance of this installation; what runs in it shows in the UI. Raises as the above."""
    _place_files(settings)
    os.environ.update(dagster_environment(settings))
    with _refusals_in_one_line(settings):
        return dg.DagsterInstance.get()


def _place_files(settings: Settings) -> Path:
    require_dagster_database(settings)
    place_configuration(settings)
    workspace = settings.dagster_home / "workspace.yaml"
    write_if_different(workspace, _WORKSPACE)
    return workspace


@contextmanager
def _refusals_in_one_line(settings: Settings) -> Iterator[None]:
    try:
        yield
    except REFUSALS as error:
        file = (settings.dagster_home / NAME).resolve()
        raise ConfigurationError(f"{file}: Dagster refuses it ({_reason(error)}): fix it") from None


def _home_of_configuration(settings: Settings) -> Path:
    """The folder that Dagster reads `dagster.yaml` in: the project itself where its file counts.

    Started there with another home, Dagster warns that the project's file is not used.
    """
    root = project_root()
    counts = (settings.dagster_home / NAME).resolve()
    return root if root is not None and counts == root / NAME else settings.dagster_home


def _reason(error: Exception) -> str:
    """What Dagster says about its configuration, in one line and without the whole schema."""
    if isinstance(error, dg.DagsterInvalidConfigError):
        problems = [" ".join(problem.message.split()) for problem in error.errors]
        return "; ".join(_END_OF_REASON.split(problem)[0] for problem in problems)
    if isinstance(error, DagsterPostgresException):
        return f"its storage: {str(error.__cause__ or error).splitlines()[0]}"
    return str(error).strip().splitlines()[-1].removeprefix("Failure condition: ").rstrip(".")
