"""An installation of its own for faults, so that batches can be numbered from 1 again and again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging import storing
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import VARIABLES
from doceval_pipeline_tests.faults.environment import Scene


@pytest.fixture(scope="package")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("faults")
    before = dict(os.environ)
    for variable in VARIABLES:
        os.environ.pop(variable, None)
    os.environ["DOCEVAL_HOME"] = str(home)
    yield Settings.from_environment()
    EmbeddedServer(home).stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def scene(databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Where batches are made, spoilt and compared; portions are small, so that there are several."""
    monkeypatch.setattr(storing, "PORTION_FILES", 3)
    return Scene(databases, tmp_path / "documents")
