"""The Dagster instance of the tests' installation."""

from collections.abc import Iterator

import dagster as dg
import pytest

from doceval_pipeline.defs.instance import open_instance
from doceval_pipeline.settings import Settings


@pytest.fixture
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    with open_instance(settings) as opened:
        yield opened
