"""The run launcher of an installation. An engine is a launcher that starts runs on other machines."""

import importlib
from typing import Any

from dagster import DefaultRunLauncher
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import RunLauncher
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher

from doceval_pipeline.batches.databases import require_own_urls
from doceval_pipeline.dagster_home.configuration import effective_configuration, read_configuration
from doceval_pipeline.defs.instance import CONFIGURATION_ERRORS, configuration_errors
from doceval_pipeline.errors import LONGEST_REASON, ConfigurationError
from doceval_pipeline.settings import Settings

# The extra that installs the package of a launcher.
_EXTRAS = {"dagster_celery": "celery", "dagster_k8s": "k8s", "dagster_docker": "docker"}


def is_engine(launcher: RunLauncher[Any]) -> bool:
    """Whether a launcher starts runs on other machines."""
    return not isinstance(launcher, DefaultRunLauncher | SyncInMemoryRunLauncher)


def require_launcher(settings: Settings) -> None:
    """Check that the run launcher of `dagster.yaml` can start runs, without opening a database.

    Raises
    ------
    ConfigurationError
        The launcher cannot be imported or rejects its config, or it is an engine and a database is on the
        embedded server.
    """
    file = effective_configuration(settings)
    read_configuration(file)
    with configuration_errors(file):
        data = InstanceRef.from_dir(str(file.parent), config_filename=file.name).run_launcher_data
        if data is None:
            return
        name = f"{data.module_name}.{data.class_name}"
        try:
            found = getattr(importlib.import_module(data.module_name), data.class_name, None)
        except ImportError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            fix = f"pip install 'doceval-pipeline[{extra}]', or fix run_launcher" if extra else "fix it"
            raise ConfigurationError(
                f"{file}: the run launcher {name} cannot be imported ({error}): {fix}"
            ) from None
        if not isinstance(found, type) or not issubclass(found, RunLauncher):
            raise ConfigurationError(f"{file}: {name} is not a run launcher: fix run_launcher")
        try:
            launcher: RunLauncher[Any] = data.rehydrate(as_type=found)
        except CONFIGURATION_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - launchers of others raise errors of their own
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            raise ConfigurationError(f"{file}: the run launcher {name} cannot be used ({reason})") from None
    if is_engine(launcher):
        require_own_urls(settings, f"the run launcher {name} starts runs on other machines")
