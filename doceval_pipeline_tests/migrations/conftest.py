"""Two databases with all roles, and a login role for each: what the tests of roles start from."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, create_engine

from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.migrations.roles import ROLES, grant_roles
from doceval_pipeline.migrations.upgrade import Schema, upgrade
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

# A login that is a member of no role, beside one for each.
STRANGER = "stranger"
LOGINS = {role: f"test_{role}" for role in (*ROLES, STRANGER)}
Urls = Callable[[str], dict[Schema, str]]


@pytest.fixture(scope="module")
def urls(settings: Settings) -> Iterator[Urls]:
    """Two databases with roles, and a login role for each: URLs by schema, as a role's member."""
    server = EmbeddedServer(settings.home)
    server.ensure()
    names = {schema: f"roles_{schema.value}_{uuid4().hex[:8]}" for schema in Schema}
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    for schema, name in names.items():
        server.ensure_database(name)
        engine = create_engine(server.url(name))
        upgrade(engine, schema)
        for _ in range(2):
            grant_roles(engine, schema)
        engine.dispose()
    with admin.connect() as connection:
        for role, login in LOGINS.items():
            member = "" if role == STRANGER else f"IN ROLE {role}"
            connection.exec_driver_sql(f"CREATE ROLE {login} LOGIN {member}")
    yield lambda role: {
        schema: server.url(name).replace("postgres@", f"{LOGINS[role]}@") for schema, name in names.items()
    }
    with admin.connect() as connection:
        for name in names.values():
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        for login in LOGINS.values():
            connection.exec_driver_sql(f"DROP ROLE {login}")
    admin.dispose()


@pytest.fixture
def as_role(urls: Urls) -> Iterator[Callable[..., Connection]]:
    """Connects as a member of a role."""
    opened: list[tuple[Engine, Connection]] = []

    def connect(role: str, schema: Schema = Schema.KNOWLEDGE) -> Connection:
        engine = create_engine(urls(role)[schema], isolation_level="AUTOCOMMIT")
        opened.append((engine, engine.connect()))
        return opened[-1][1]

    yield connect
    for engine, connection in opened:
        connection.close()
        engine.dispose()


@pytest.fixture
def staged(urls: Urls, settings: Settings, tmp_path: Path) -> Sample:
    """A batch that a member of doceval_stager applied and staged, in databases that are otherwise empty."""
    (tmp_path / "documents").mkdir()
    for name in "abc":
        write_old(tmp_path / "documents" / name, name)
    stager = urls("doceval_stager")
    opened = open_databases(
        replace(
            settings,
            doc_eval_url=stager[Schema.DOC_EVAL],
            knowledge_documents_url=stager[Schema.KNOWLEDGE],
        )
    )
    name = f"batch {uuid4().hex[:8]}x"
    located = evaluation_of([{"name": name, "folders": [str(tmp_path / "documents")]}])
    numbers = apply_evaluation(opened.doc_eval, located).numbers
    batch = Sample(opened, numbers[name], name, tmp_path / "documents")
    batch.stage()
    return batch
