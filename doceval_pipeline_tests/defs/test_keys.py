"""Launchpad config that contains a key is refused before Dagster stores it."""

from pathlib import Path

import dagster as dg
import pytest

from doceval_pipeline_tests.defs.running import QUIET, run
from doceval_pipeline_tests.secret_canaries import CARELESS, KEY, PASSWORD, with_secret


@pytest.mark.parametrize("place", CARELESS)
def test_a_config_with_a_key_makes_no_run(tmp_path: Path, instance: dg.DagsterInstance, place: str) -> None:
    content = with_secret(tmp_path, place)
    (batch,) = content["batches"]
    config = {**batch, "new_connections": content["connections"], "new_prompts": content["prompts"]}
    before = instance.get_runs_count()
    with pytest.raises((dg.DagsterInvalidInvocationError, dg.DagsterInvalidConfigError)) as caught:
        run(instance, "create_batch", None, run_config={**QUIET, "ops": {"create": {"config": config}}})
    assert instance.get_runs_count() == before
    if isinstance(caught.value, dg.DagsterInvalidInvocationError):
        assert KEY not in str(caught.value)
        assert PASSWORD not in str(caught.value)


def test_a_config_that_is_wrong_otherwise_too_makes_no_run(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    config = {"name": f"7 {KEY}" * 99, "folders": [str(tmp_path)], "connections": [], "prompts": ["p"]}
    before = instance.get_runs_count()
    with pytest.raises(dg.DagsterInvalidInvocationError):
        run(instance, "create_batch", None, run_config={**QUIET, "ops": {"create": {"config": config}}})
    assert instance.get_runs_count() == before
