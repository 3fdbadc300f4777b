"""A separate installation for faults, so that batch ids can start at 1 repeatedly."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging import storing
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import VARIABLES
from doceval_pipeline_tests.faults.environment import Environment


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
def environment(databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The environment of faults; portions are small, so that there are several."""
    monkeypatch.setattr(storing, "PORTION_FILES", 3)
    return Environment(databases, tmp_path / "documents")
