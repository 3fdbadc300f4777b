"""A wheel holds what the package needs, whether it is built from a checkout or from a source distribution."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from doceval_pipeline.dagster_home.configuration import EARLIER, SHIPPED
from doceval_pipeline_tests.fresh_clone import PROJECT

BUILD = "import sys; from flit_core import buildapi; print(getattr(buildapi, sys.argv[1])(sys.argv[2]))"
# Pages of documentation beside the folder docs/.
ABOVE = ("README.md", "SECURITY.md", "CHANGELOG.md")
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
    documentation = {path.name: path.read_bytes() for path in (package / "documentation").iterdir()}
    assert documentation == {
        path.name: path.read_bytes() for path in (*PROJECT.glob("docs/*.md"), *map(PROJECT.joinpath, ABOVE))
    }
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


@pytest.mark.slow
def test_a_wheel_in_an_environment_of_its_own_works_in_an_empty_folder(tmp_path: Path) -> None:
    wheel = build("wheel", PROJECT, tmp_path / "dist")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    # What the lock file installs is here already; the wheel itself is not linked to this checkout.
    libraries = sysconfig.get_path("purelib")
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True)
    (site / "zz-libraries.pth").write_text(f"{libraries}\n")
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DOCEVAL", "DAGSTER"))},
        "DOCEVAL_HOME": str(folder / "home"),
    }

    def doceval(*words: str) -> str:
        ended = subprocess.run(
            [str(python.with_name("doceval")), *words],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    where = [str(python), "-c", "import doceval_pipeline; print(doceval_pipeline.__file__)"]
    found = subprocess.run(where, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert Path(found).is_relative_to(site)
    try:
        assert "doc_eval" in doceval("init")
        assert doceval("docs", "docs/operations.md#backup") == (PROJECT / "docs/operations.md").read_text()
        assert "operations" in doceval("docs")
        assert doceval("check") == "every invariant holds\n"
    finally:
        doceval("down")
