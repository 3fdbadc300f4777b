"""A wheel holds what the package needs, whether it is built from a checkout or from a source distribution."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from doceval_pipeline.dagster_home.configuration import EARLIER, SHIPPED
from doceval_pipeline_tests.fresh_clone import PROJECT

BUILD = "import sys; from flit_core import buildapi; print(getattr(buildapi, sys.argv[1])(sys.argv[2]))"
PLACE = """
from doceval_pipeline.dagster_home.configuration import place_configuration
from doceval_pipeline.settings import Settings
print(place_configuration(Settings.from_environment()))
"""


def build(kind: str, source: Path, into: Path) -> Path:
    into.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(into)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    return into / built.stdout.strip()


@pytest.mark.parametrize("by_way_of_a_source_distribution", [False, True])
def test_a_wheel_writes_the_projects_dagster_yaml_into_the_home(
    tmp_path: Path, by_way_of_a_source_distribution: bool
) -> None:
    source = PROJECT
    if by_way_of_a_source_distribution:
        with tarfile.open(build("sdist", PROJECT, tmp_path / "sdist")) as archive:
            archive.extractall(tmp_path, filter="data")
        (source,) = tmp_path.glob("doceval_pipeline-*")
    with zipfile.ZipFile(build("wheel", source, tmp_path / "dist")) as wheel:
        wheel.extractall(tmp_path / "site")
    package = tmp_path / "site" / "doceval_pipeline"
    assert (package / "dagster.yaml").read_bytes() == SHIPPED.read_bytes()
    assert len(list((package / "dagster_home" / "earlier").iterdir())) == len(list(EARLIER.iterdir()))
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "DOCEVAL_HOME": str(tmp_path / "home")}
    said = subprocess.run(
        [sys.executable, "-c", PLACE],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    written = Path(said.stdout.strip())
    assert written == tmp_path / "home" / "dagster" / "dagster.yaml"
    assert not written.is_symlink()
    assert written.read_bytes() == SHIPPED.read_bytes()
