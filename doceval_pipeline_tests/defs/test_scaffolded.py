"""Definitions that users add to the defs folder are loaded beside the project's own, which do not change."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doceval_pipeline.defs.scaffolded import FOLDER, OWN, added_by_users
from doceval_pipeline_tests.fresh_clone import PROJECT, SCRIPTS

# What `dg scaffold defs` writes for each of them, but for the asset, which it writes itself.
SIBLINGS = {
    "my_schedule.py": "@dg.schedule(cron_schedule='@daily', target='*')\ndef my_schedule(context): ...",
    "my_sensor.py": "@dg.sensor(target=None)\ndef my_sensor(context): ...",
    "my_job.py": "@dg.job\ndef my_job(): ...",
    "my_check.py": "@dg.asset_check(asset=dg.AssetKey(['my_asset']))\ndef my_check(context): ...",
    "my_resources.py": "@dg.definitions\ndef resources(): return dg.Definitions(resources={'mine': 1})",
    "deeper/after_rows.py": "from doceval_pipeline.defs.staging import queue_rows\n"
    "from doceval_pipeline.defs.partitions import batches\n"
    "@dg.asset(deps=[queue_rows], partitions_def=batches)\ndef after_rows(context): ...",
}
COMPONENT = "type: dagster.DefsFolderComponent\nattributes: {}\n"
NAMES = """
import json, warnings
import dagster as dg
warnings.simplefilter("error", dg.PreviewWarning)
from doceval_pipeline.definitions import defs, own_definitions
from doceval_pipeline.settings import Settings
def names(definitions):
    repository = definitions.get_repository_def()
    return [
        [key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()],
        [key.name for key in repository.asset_graph.asset_check_keys],
        [job.name for job in repository.get_all_jobs() if not job.name.startswith("__")],
        [each.name for each in [*repository.sensor_defs, *repository.schedule_defs]],
        list(repository.get_top_level_resources()),
    ]
print(json.dumps([names(defs()), names(own_definitions(Settings.from_environment()))]))
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """This project's package and pyproject.toml."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "doceval_pipeline", tmp_path / "doceval_pipeline", ignore=ignored)
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "HOME": str(folder)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def added(folder: Path) -> list[set[str]]:
    """Assets, checks, jobs, sensors and schedules, and resources beside our own."""
    everything, own = json.loads(run(folder, sys.executable, "-c", NAMES))
    return [set(names) - set(ours) for names, ours in zip(everything, own, strict=True)]


def test_every_own_module_is_listed_and_nothing_else_exists() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} == OWN
    assert added_by_users() == []


def test_hidden_files_and_caches_are_nothing_that_users_added(tmp_path: Path) -> None:
    for name in ("__init__.py", ".hidden.py", "jobs.py", "notes.md", "mine.py"):
        (tmp_path / name).touch()
    for name in ("__pycache__", ".cache", "component"):
        (tmp_path / name).mkdir()
    assert [path.name for path in added_by_users(tmp_path)] == ["component", "mine.py"]


@pytest.mark.slow
def test_what_dg_scaffolds_is_listed_and_loaded_beside_our_own(copied: Path) -> None:
    defs = copied / "doceval_pipeline" / "defs"
    dg = str(SCRIPTS / "dg")
    run(copied, dg, "scaffold", "defs", "dagster.asset", "my_asset.py")
    for name, code in SIBLINGS.items():
        (defs / name).parent.mkdir(exist_ok=True)
        (defs / name).write_text(f"import dagster as dg\n{code}\n")
    (defs / "component").mkdir()
    (defs / "component" / "defs.yaml").write_text(COMPONENT)
    (defs / "component" / "inner.py").write_text("import dagster as dg\n@dg.asset\ndef inner(): ...\n")
    assert added(copied) == [
        {"my_asset", "after_rows", "inner"},
        {"my_check"},
        {"my_job"},
        {"my_schedule", "my_sensor"},
        {"mine"},
    ]
    listed = json.loads(run(copied, dg, "list", "defs", "--json"))
    assert {"my_asset", "queue_rows"} <= {asset["asset_key"] for asset in listed["assets"]}


def test_an_installed_package_needs_no_project_around_it(copied: Path) -> None:
    (copied / "pyproject.toml").unlink()
    (copied / "doceval_pipeline" / "defs" / "mine.py").write_text(
        "import dagster as dg\n@dg.asset\ndef mine(): ...\n"
    )
    assert added(copied)[0] == {"mine"}
