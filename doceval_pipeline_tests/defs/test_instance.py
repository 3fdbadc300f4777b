"""Dagster's instance: its configuration, and the messages about mistakes in it."""

import os
from pathlib import Path

import dagster as dg
import pytest
from dagster_postgres import PostgresEventLogStorage

from doceval_pipeline.batches.databases import DAGSTER, DOC_EVAL, KNOWLEDGE, database_url
from doceval_pipeline.dagster_home.configuration import SHIPPED
from doceval_pipeline.defs.instance import dagster_environment, open_instance, prepare_dagster_home
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings, project_root

DEFAULTS = SHIPPED.read_text()


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    """Another home on the databases of the tests."""
    urls = [database_url(settings, database) for database in (DOC_EVAL, KNOWLEDGE, DAGSTER)]
    return Settings(tmp_path / "home", *urls)


def write(own: Settings, text: str) -> None:
    own.dagster_home.mkdir(parents=True)
    (own.dagster_home / "dagster.yaml").write_text(text)


def pool_of(instance: dg.DagsterInstance) -> str:
    storage = instance.event_log_storage
    assert isinstance(storage, PostgresEventLogStorage)
    return type(storage._engine.pool).__name__


def test_storage_and_artifacts_find_their_place_without_a_variable(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    assert pool_of(instance) == "QueuePool"
    assert instance.root_directory == str(settings.dagster_home)
    assert not instance.telemetry_enabled


def test_the_projects_folder_is_dagsters_home_only_where_its_file_counts(own: Settings) -> None:
    prepare_dagster_home(own)
    assert dagster_environment(own)["DAGSTER_HOME"] == str(project_root())
    (own.dagster_home / "dagster.yaml").unlink()
    (own.dagster_home / "dagster.yaml").write_text(DEFAULTS)
    assert dagster_environment(own)["DAGSTER_HOME"] == str(own.dagster_home)


@pytest.mark.usefixtures("instance")
def test_a_users_own_storage_is_respected(
    own: Settings, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    url = database_url(settings, DAGSTER)
    block = f"storage:\n  postgres:\n    postgres_url: {url}\n"
    write(own, block + DEFAULTS[DEFAULTS.index("# Artifacts of assets") :])
    with open_instance(own) as opened:
        assert pool_of(opened) == "NullPool"
        assert opened.get_runs_count() >= 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense: 1\n", r'Received unexpected config entry "nonsense" at the root'),
        ("run_queue:\n  dequeue_interval_seconds: soon\n", r'Value "soon" .* is not valid'),
        ("storage:\n  custom:\n    module: nowhere\n    class: X\n", r"Couldn't import module nowhere"),
        ("run_launcher:\n  module: dagster\n  class: Nope\n", r"Couldn't find class Nope"),
        ("storage:\n  custom:\n    module: x\n", r'Missing required config entry "class"'),
        ("storage:\n  postgres:\n    postgres_url: {env: NOPE}\n", r'environment variable "NOPE"'),
    ],
)
def test_a_configuration_that_dagster_refuses_is_one_line(own: Settings, text: str, reason: str) -> None:
    write(own, text)
    with pytest.raises(ConfigurationError, match=reason) as refused:
        prepare_dagster_home(own)
    line = str(refused.value)
    assert line.startswith(f"{own.dagster_home / 'dagster.yaml'}: Dagster rejects this configuration (")
    assert "\n" not in line
    assert len(line) < 500


def test_a_run_that_dagster_would_throw_away_is_refused(settings: Settings, tmp_path: Path) -> None:
    @dg.op
    def work(doc_eval: DocEval) -> None:
        with pytest.raises(ConfigurationError, match="keeps no history of this run"):
            doc_eval.open()

    folder = tmp_path / ".tmp_dagster_home_1"
    folder.mkdir()
    with dg.DagsterInstance.local_temp(str(folder)) as thrown_away:
        job = dg.GraphDefinition(name="job", node_defs=[work]).to_job(resource_defs={"doc_eval": DocEval()})
        assert job.execute_in_process(instance=thrown_away).success
