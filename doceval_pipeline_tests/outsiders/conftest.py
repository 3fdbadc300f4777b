"""One PostgreSQL of Debian's for all tests here."""

from collections.abc import Iterator

import pytest

from doceval_pipeline_tests.outsiders import debian_server as servers


@pytest.fixture(scope="session")
def debian_server() -> Iterator[servers.DebianServer]:
    """Debian's PostgreSQL, with no database or role of ours."""
    with servers.debian_server() as server:
        yield server
