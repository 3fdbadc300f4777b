"""`DOCEVAL_MIGRATE=never`: what a worker leaves to `doceval init`, with databases on another server."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import doceval

VARIABLES = ("DOC_EVAL_URL", "KNOWLEDGE_DOCUMENTS_URL", "DAGSTER_POSTGRES_URL")


@pytest.fixture
def empty_databases(settings: Settings) -> Iterator[dict[str, str]]:
    """The variables of three empty databases on a server that is not the installation's own."""
    server = EmbeddedServer(settings.home)
    names = [f"never_{uuid4().hex[:8]}" for _ in VARIABLES]
    server.ensure_database(*names)
    yield {variable: server.url(name) for variable, name in zip(VARIABLES, names, strict=True)}
    with closing(server.connect("postgres")) as connection:
        connection.autocommit = True
        for name in names:
            connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_only_init_creates_tables_where_processes_never_migrate(
    empty_databases: dict[str, str], tmp_path: Path
) -> None:
    environment = {**empty_databases, "DOCEVAL_HOME": str(tmp_path), "DOCEVAL_MIGRATE": "never"}
    for arguments in (["status"], ["env"]):
        refused = doceval(*arguments, **environment)
        assert refused.returncode == 1
        assert "has no tables of doceval, and DOCEVAL_MIGRATE=never: run doceval init" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert doceval("init", **environment).returncode == 0
    for arguments in (["status"], ["env"]):
        ended = doceval(*arguments, **environment)
        assert (ended.returncode, ended.stderr) == (0, "")
    without_dagster = {**environment, "DAGSTER_POSTGRES_URL": empty_databases["DOC_EVAL_URL"]}
    refused = doceval("env", **without_dagster)
    assert "has no tables of Dagster, and DOCEVAL_MIGRATE=never: run doceval init" in refused.stderr


def test_a_process_that_never_migrates_starts_no_server(tmp_path: Path) -> None:
    refused = doceval("status", DOCEVAL_HOME=str(tmp_path), DOCEVAL_MIGRATE="never")
    assert refused.returncode == 1
    assert f"set {', '.join(VARIABLES)} to databases that they reach" in refused.stderr
    assert not (tmp_path / "postgres").exists()
