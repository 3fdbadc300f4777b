"""What a dagster.yaml gave up is named, wherever Dagster would read it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from doceval_pipeline.dagster_home.configuration import SHIPPED
from doceval_pipeline.dagster_home.safeguards import warnings_about

FILE = Path("/home/dagster.yaml")
PER_BATCH = {"key": "dagster/partition", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
MONITORED = {"run_monitoring": {"enabled": True}}


def test_the_defaults_give_nothing_up() -> None:
    assert warnings_about(FILE, yaml.safe_load(SHIPPED.read_text())) == []


@pytest.mark.parametrize(
    "configuration",
    [
        {"concurrency": {"runs": {"tag_concurrency_limits": [{"key": "x", "limit": 9}, PER_BATCH]}}},
        {"run_queue": {"tag_concurrency_limits": [PER_BATCH]}},
        {
            "run_coordinator": {
                "class": "QueuedRunCoordinator",
                "config": {"tag_concurrency_limits": [PER_BATCH]},
            }
        },
        {"run_queue": {"tag_concurrency_limits": [{"key": "dagster/partition", "limit": 1}]}},
    ],
)
def test_a_limit_counts_wherever_dagster_reads_it(configuration: Mapping[str, Any]) -> None:
    assert warnings_about(FILE, {**configuration, **MONITORED}) == []


@pytest.mark.parametrize(
    "limits",
    [
        None,
        [],
        [{**PER_BATCH, "limit": 2}],
        [{**PER_BATCH, "value": {"applyLimitPerUniqueValue": False}}],
        [{**PER_BATCH, "value": "batch-000001"}],
        ["dagster/partition"],
        "dagster/partition",
    ],
)
def test_a_limit_that_is_missing_or_weaker_is_named_with_what_to_do(limits: Any) -> None:
    (warning,) = warnings_about(FILE, {"run_queue": {"tag_concurrency_limits": limits}, **MONITORED})
    assert str(FILE) in warning
    assert "restore concurrency.runs.tag_concurrency_limits" in warning


@pytest.mark.parametrize("monitoring", [None, {}, {"enabled": False}])
def test_monitoring_that_is_off_is_named_with_what_to_do(monitoring: Any) -> None:
    (warning,) = warnings_about(
        FILE, {"run_queue": {"tag_concurrency_limits": [PER_BATCH]}, "run_monitoring": monitoring}
    )
    assert "restore run_monitoring.enabled: true" in warning
