"""Warns about safeguards that are missing in a user's `dagster.yaml`. Results stay correct without them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doceval_pipeline.dagster_home.configuration import effective_configuration, read_configuration
from doceval_pipeline.settings import Settings

PARTITION = "dagster/partition"


def missing_safeguards(settings: Settings) -> list[str]:
    """One warning for each safeguard that is missing in the installation's `dagster.yaml`.

    Raises
    ------
    ConfigurationError
        The file is not valid YAML.
    """
    effective = effective_configuration(settings)
    return warnings_about(effective, read_configuration(effective))


def warnings_about(file: Path, configuration: Mapping[str, Any]) -> list[str]:
    """Warnings about one configuration."""
    warnings = []
    if not any(_limits_each_batch(limit) for limit in _tag_limits(configuration)):
        warnings.append(
            f"{file} does not limit runs to one per batch, so a second run of a batch waits for its lock "
            "instead of in the queue: restore concurrency.runs.tag_concurrency_limits"
        )
    if not _part(configuration, "run_monitoring").get("enabled"):
        warnings.append(
            f"{file} does not enable run_monitoring, so runs that never start, or do not end when they are "
            "cancelled, are not failed: restore run_monitoring.enabled: true"
        )
    return warnings


def _tag_limits(configuration: Mapping[str, Any]) -> list[Any]:
    """The tag limits from the three places where Dagster reads them."""
    places = (
        _part(configuration, "concurrency", "runs"),
        _part(configuration, "run_queue"),
        _part(configuration, "run_coordinator", "config"),
    )
    values = [place.get("tag_concurrency_limits") for place in places]
    return [limit for limits in values if isinstance(limits, list) for limit in limits]


def _limits_each_batch(limit: Any) -> bool:
    if not isinstance(limit, dict) or limit.get("key") != PARTITION or limit.get("limit") != 1:
        return False
    value = limit.get("value")
    # Without a value, the limit is one run of all batches, which is stricter.
    return value is None or (isinstance(value, dict) and value.get("applyLimitPerUniqueValue") is True)


def _part(configuration: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        inner = configuration.get(key)
        configuration = inner if isinstance(inner, dict) else {}
    return configuration
