"""The Dagster home of an installation: configuration, environment variables, and the instance."""

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
from doceval_pipeline.dagster_home.configuration import (
    NAME,
    effective_configuration,
    place_configuration,
    write_if_different,
)
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings, project_root

LOCATION = "doceval_pipeline"
CONFIGURATION_ERRORS = (
    dg.DagsterInvalidConfigError,
    CheckError,
    DagsterImportError,
    DagsterPostgresException,
)
# In Dagster's messages, the whole schema or a stack trace follows.
_END_OF_REASON = re.compile(r"\.? (?:Expected: |You must provide this value|Stack Trace)")
_UNSET_VARIABLE = re.compile(r'environment variable "\w+"(?= which is not set)')
# The same location name as in the project's workspace.yaml and pyproject.toml, because Dagster stores
# sensors, schedules and runs under it.
_WORKSPACE = f"""\
load_from:
  - python_module:
      module_name: doceval_pipeline.definitions
      location_name: {LOCATION}
"""


def dagster_environment(settings: Settings) -> dict[str, str]:
    """The environment variables with which plain Dagster commands use this installation.

    The URLs may contain passwords.
    """
    return {
        "DOCEVAL_HOME": str(settings.home),
        "DOC_EVAL_URL": database_url(settings, DOC_EVAL),
        "KNOWLEDGE_DOCUMENTS_URL": database_url(settings, KNOWLEDGE),
        "DAGSTER_POSTGRES_URL": database_url(settings, DAGSTER),
        "DAGSTER_HOME": str(_home_of_configuration(settings)),
    }


def prepare_dagster_home(settings: Settings) -> Path:
    """Prepare Dagster's database and home; returns the path of the workspace file.

    Raises
    ------
    ConfigurationError
        Dagster rejects its `dagster.yaml`; also as `require_dagster_database` and `place_configuration`.
    """
    workspace = _place_files(settings)
    # Opened here, so that errors are shown at once and not only in the log of a daemon.
    with (
        environ(dagster_environment(settings)),
        configuration_errors(effective_configuration(settings)),
        dg.DagsterInstance.get() as opened,
    ):
        # Dagster creates these when they are first used.
        _ = opened.run_launcher, opened.run_coordinator
    return workspace


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance of this installation, whose runs the UI shows; raises as `prepare_dagster_home`."""
    _place_files(settings)
    os.environ.update(dagster_environment(settings))
    with configuration_errors(effective_configuration(settings)):
        return dg.DagsterInstance.get()


def _place_files(settings: Settings) -> Path:
    require_dagster_database(settings)
    place_configuration(settings)
    workspace = settings.dagster_home / "workspace.yaml"
    write_if_different(workspace, _WORKSPACE)
    return workspace


@contextmanager
def configuration_errors(file: Path) -> Iterator[None]:
    """Turn Dagster's errors about `dagster.yaml` into one line."""
    try:
        yield
    except CONFIGURATION_ERRORS as error:
        raise ConfigurationError(
            f"{file}: Dagster rejects this configuration ({_reason(error)}): fix it"
        ) from None


def _home_of_configuration(settings: Settings) -> Path:
    """The folder from which Dagster reads `dagster.yaml`: the project itself if its file is in use.

    With another home, Dagster commands in the project's folder would warn that its file is not used.
    """
    root = project_root()
    in_use = (settings.dagster_home / NAME).resolve()
    return root if root is not None and in_use == root / NAME else settings.dagster_home


def _reason(error: Exception) -> str:
    """Dagster's message about its configuration, in one line and without the schema."""
    if isinstance(error, dg.DagsterInvalidConfigError):
        problems = [" ".join(problem.message.split()) for problem in error.errors]
        if unset := _UNSET_VARIABLE.search("; ".join(problems)):
            return f"{unset[0]} is not set"
        return "; ".join(_END_OF_REASON.split(problem)[0] for problem in problems)
    if isinstance(error, DagsterPostgresException):
        return f"storage: {str(error.__cause__ or error).splitlines()[0]}"
    return str(error).strip().splitlines()[-1].removeprefix("Failure condition: ").rstrip(".")
