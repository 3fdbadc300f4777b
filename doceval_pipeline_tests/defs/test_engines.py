"""Which run launchers are accepted, and the messages about those that are not."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from dagster import DefaultRunLauncher
from dagster_celery.launcher import CeleryRunLauncher

from doceval_pipeline.cli import cli
from doceval_pipeline.dagster_home.configuration import SHIPPED
from doceval_pipeline.defs.engines import is_engine, require_launcher
from doceval_pipeline.defs.launcher import WarmRunLauncher
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import VARIABLES
from doceval_pipeline_tests.fresh_clone import PROJECT

URL = "postgresql+psycopg2://user@db.example.org/one"
LAUNCHER = "run_launcher:\n  module: {}\n  class: {}\n"
CELERY = LAUNCHER.format("dagster_celery.launcher", "CeleryRunLauncher")


def installation(home: Path, text: str, **urls: str) -> Settings:
    settings = Settings(home, **urls)
    settings.dagster_home.mkdir(parents=True)
    (settings.dagster_home / "dagster.yaml").write_text(text)
    return settings


def refusal(settings: Settings) -> str:
    with pytest.raises(ConfigurationError) as refused:
        require_launcher(settings)
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


def test_only_launchers_that_start_runs_elsewhere_are_engines() -> None:
    assert is_engine(CeleryRunLauncher("dagster", "redis://127.0.0.1:1/0"))
    assert not is_engine(DefaultRunLauncher())
    assert not is_engine(WarmRunLauncher())


@pytest.mark.parametrize("text", ["", SHIPPED.read_text(), LAUNCHER.format("dagster", "DefaultRunLauncher")])
def test_runs_on_this_machine_need_no_databases_of_ones_own(tmp_path: Path, text: str) -> None:
    require_launcher(installation(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUNCHER.format("nowhere", "X"), r"nowhere.X cannot be imported \(No module named 'nowhere'\)"),
        (LAUNCHER.format("dagster", "Nope"), "dagster.Nope is not a run launcher"),
        (LAUNCHER.format("dagster", "job"), "dagster.job is not a run launcher"),
        (LAUNCHER.format("dagster", "DagsterInstance"), "dagster.DagsterInstance is not a run launcher"),
        (f"{CELERY}  config: {{broke: x}}\n", 'unexpected config entry "broke"'),
        (
            f"{CELERY}  config: {{broker: {{env: NO_BROKER}}}}\n",
            'environment variable "NO_BROKER" is not set',
        ),
        ("run_launcher: [", "not valid YAML"),
        ("run_launcher: {module: dagster}\n", 'Missing required config entry "class"'),
    ],
)
def test_a_launcher_that_cannot_be_loaded_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    line = refusal(installation(tmp_path, text))
    assert line.startswith(str(tmp_path / "dagster" / "dagster.yaml"))
    assert re.search(reason, line)


@pytest.mark.parametrize(
    ("package", "extra"), [("dagster_celery", "celery"), ("dagster_k8s", "k8s"), ("dagster_docker", "docker")]
)
def test_a_missing_package_is_named_with_the_extra_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    line = refusal(installation(tmp_path, LAUNCHER.format(f"{package}.launcher", "Launcher")))
    assert f"pip install 'doceval-pipeline[{extra}]'" in line


def test_an_error_of_the_launcher_itself_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **_config: object) -> None:
        raise RuntimeError("no cluster\nhere")

    monkeypatch.setattr(CeleryRunLauncher, "__init__", fail)
    assert "cannot be used (no cluster here)" in refusal(installation(tmp_path, CELERY))


def test_an_engine_needs_all_three_databases_outside_the_embedded_server(tmp_path: Path) -> None:
    line = refusal(installation(tmp_path, CELERY, doc_eval_url=URL))
    assert "embedded server" in line
    assert "set KNOWLEDGE_DOCUMENTS_URL, DAGSTER_POSTGRES_URL" in line
    urls = dict.fromkeys(("doc_eval_url", "knowledge_documents_url", "dagster_url"), URL)
    require_launcher(installation(tmp_path / "other", CELERY, **urls))


@pytest.mark.parametrize("engine", ["celery", "k8s", "docker"])
def test_ready_files_differ_from_the_defaults_only_in_how_runs_start(engine: str) -> None:
    ready = yaml.safe_load((PROJECT / "deploy" / f"dagster-{engine}.yaml").read_text())
    defaults = yaml.safe_load(SHIPPED.read_text())
    assert ready["run_launcher"] != defaults["run_launcher"]
    assert ready["run_monitoring"]["start_timeout_seconds"] >= 600
    for content in (ready, defaults):
        del content["run_launcher"], content["run_monitoring"]["start_timeout_seconds"]
    assert ready == defaults


def test_the_ready_file_for_celery_is_accepted_once_the_broker_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (PROJECT / "deploy" / "dagster-celery.yaml").read_text()
    urls = dict.fromkeys(("doc_eval_url", "knowledge_documents_url", "dagster_url"), URL)
    settings = installation(tmp_path, text, **urls)
    assert 'environment variable "CELERY_BROKER_URL" is not set' in refusal(settings)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://127.0.0.1:1/0")
    require_launcher(settings)


def test_init_refuses_a_launcher_before_it_starts_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = installation(tmp_path, CELERY)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DOCEVAL_HOME", str(settings.home))
    for command in (["init"], ["up"]):
        result = CliRunner().invoke(cli, command)
        assert "CeleryRunLauncher starts runs on other machines" in str(result.exception)
    assert not (settings.home / "postgres").exists()
