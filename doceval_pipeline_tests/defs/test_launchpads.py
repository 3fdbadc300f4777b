"""The launchpad of each job opens with a valid example."""

import json

import dagster as dg
import pytest
import yaml
from dagster._config.validate import validate_config_from_snap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap
from dagster_graphql.schema import create_schema
from dagster_shared.yaml_utils import load_run_config_yaml
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.defs.launchpads import EXAMPLES, show_examples, with_comments
from doceval_pipeline_tests.defs.running import definitions, failure, run

JOBS = [job.name for job in definitions.get_repository_def().get_all_jobs() if not job.name.startswith("__")]


@pytest.mark.parametrize("job", JOBS)
def test_the_example_is_valid_commented_and_equal_to_plain_dagsters_values(job: str) -> None:
    snapshot = definitions.resolve_job_def(job).get_job_snapshot()
    schema, (mode,) = snapshot.config_schema_snapshot, snapshot.mode_def_snaps
    assert mode.root_config_key is not None
    plain = default_values_yaml_from_type_snap(schema, schema.get_config_snap(mode.root_config_key))
    shown = with_comments(job, plain)
    assert shown == EXAMPLES[job]
    assert shown.startswith("# ")
    assert max(map(len, shown.splitlines())) <= 92
    assert validate_config_from_snap(schema, mode.root_config_key, yaml.safe_load(shown)).success


def test_every_example_is_of_a_job() -> None:
    assert set(EXAMPLES) == set(JOBS)


def test_a_job_with_other_values_shows_them() -> None:
    assert with_comments("retention", "ops: {}\n") == "ops: {}\n"
    assert with_comments("mine", "{}\n") == "{}\n"


def test_the_schema_of_the_webserver_has_the_places_that_examples_go_to() -> None:
    show_examples(create_schema().graphql_schema)


def test_the_example_of_create_batch_creates_nothing_until_it_is_edited(
    databases: Databases, instance: dg.DagsterInstance
) -> None:
    example = yaml.safe_load(EXAMPLES["create_batch"])
    result = run(instance, "create_batch", None, run_config=example)
    assert "folder '/path/to/documents' does not exist" in failure(result)
    with databases.doc_eval.connect() as connection:
        for table in ("batches", "connections", "prompts"):
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0


def test_dagster_reads_a_launchpad_as_the_documentation_says() -> None:
    """Where this fails, Dagster reads YAML 1.2: correct docs/evaluation_file.md and the example."""
    read = load_run_config_yaml("[No, yes, on, off, 22:30, 017, 1_000, 1e-1, 2026-01-01, 'No', '22:30', 0.1]")
    expected = [False, True, True, False, 1350, 15, 1000, "1e-1", "2026-01-01", "No", "22:30", 0.1]
    assert json.dumps(read) == json.dumps(expected)
