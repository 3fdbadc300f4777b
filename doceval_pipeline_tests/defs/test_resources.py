"""Resources have described fields without secrets."""

from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.defs.resources import DocEval, StagingProgress
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import QUIET, failure, run


def test_every_field_of_a_resource_is_described_and_none_takes_a_secret() -> None:
    fields = {
        f"{resource.__name__}.{name}": field.description
        for resource in (DocEval, StagingProgress)
        for name, field in resource.model_fields.items()
    }
    assert set(fields) == {
        "DocEval.max_document_bytes",
        "StagingProgress.seconds_between_lines",
    }
    assert all(description and "Default: " in description for description in fields.values())


def test_a_resource_opens_the_installation_of_the_environment_with_its_own_limit(
    databases: Databases,
) -> None:
    of_environment = Settings.from_environment()
    assert of_environment.home == databases.settings.home
    assert DocEval().open().settings == of_environment
    assert DocEval(max_document_bytes=9).open().settings == replace(of_environment, max_document_bytes=9)
    with pytest.raises(ConfigurationError):
        DocEval(max_document_bytes=0).open()


def test_a_field_of_a_resource_counts_in_a_run(
    batch_of: Callable[..., Sample], instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    for limit, why in ((1, "has no usable document"), (0, "DOCEVAL_MAX_DOCUMENT_BYTES must be")):
        config = {**QUIET, "resources": {"doc_eval": {"config": {"max_document_bytes": limit}}}}
        assert why in failure(run(instance, "stage_batch", batch.key, run_config=config))


def test_a_long_step_logs_at_the_configured_interval(capfd: pytest.CaptureFixture[str]) -> None:
    log = dg.build_op_context().log
    for seconds in (0.0, 3_600.0, None):
        tell = StagingProgress(seconds_between_lines=seconds).listener(log, f"every {seconds}")
        tell(1, None, 0)
        tell(1, 2, 1_000)
        tell(2, 2, 2_000)
    said = capfd.readouterr().err
    assert said.count("every 0.0: ") == 3
    assert "every 0.0: 1 so far" in said
    assert "every 3600.0: " not in said
    assert "every None: " not in said
