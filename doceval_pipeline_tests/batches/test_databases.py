"""Databases are opened once; one that cannot be reached is named by its variable, without its password."""

import logging
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn
from sqlalchemy import create_engine, text

from doceval_pipeline.batches.databases import (
    DAGSTER,
    DOC_EVAL,
    KNOWLEDGE,
    open_databases,
    plain_url,
    require_dagster_database,
)
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import DatabaseError, DocEvalError
from doceval_pipeline.settings import Settings

PASSWORD = "canary"


@pytest.fixture
def short_home(settings: Settings, tmp_path: Path) -> Iterator[Path]:
    """The home of an installation that no other test uses."""
    yield tmp_path
    EmbeddedServer(tmp_path).stop()


@pytest.mark.parametrize(
    "after_user",
    [
        f":{PASSWORD}@127.0.0.1:1/db",
        f":p@{PASSWORD}@127.0.0.1:1/db",
        f":p@ss:{PASSWORD}@127.0.0.1:1/db",
        f":p:{PASSWORD}@[127.0.0.1/db",
        f":p/{PASSWORD}@127.0.0.1:1/db",
        f":p@/{PASSWORD}@127.0.0.1:1/db",
        f":p#{PASSWORD}%zz@127.0.0.1:1/db",
        f"@127.0.0.1:1/db?password={PASSWORD}",
        f"@127.0.0.1:1/db?passwort={PASSWORD}",
        f"@127.0.0.1:1/db?sslpassword={PASSWORD}&sslmode=nonsense",
    ],
)
@pytest.mark.parametrize("variable", ["doc_eval_url", "knowledge_documents_url"])
def test_no_part_of_a_password_is_told(
    settings: Settings, caplog: pytest.LogCaptureFixture, variable: str, after_user: str
) -> None:
    url = f"postgresql+psycopg2://user{after_user}"
    with caplog.at_level(logging.DEBUG), pytest.raises(DocEvalError, match=variable.upper()) as caught:
        open_databases(replace(settings, **{variable: url}))
    assert len(str(caught.value).splitlines()) == 1
    told = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in told.replace(__file__, "") + caplog.text


def test_databases_that_are_open_are_opened_again_without_a_connection(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = open_databases(settings)
    for engine in (databases.doc_eval, databases.knowledge):
        # Other tests may have left connections in the pool that are not alive.
        engine.dispose()
    open_databases(settings)
    opened: list[dict[str, Any]] = []
    connect = psycopg2.connect

    def remember(*arguments: Any, **options: Any) -> Any:
        opened.append(options)
        return connect(*arguments, **options)

    monkeypatch.setattr(psycopg2, "connect", remember)
    for _ in range(5):
        open_databases(settings)
    assert not opened


def test_a_server_that_was_stopped_meanwhile_is_started_again(short_home: Path) -> None:
    settings = replace(Settings.from_environment(), home=short_home)
    databases = open_databases(settings)
    assert EmbeddedServer(short_home).stop()
    assert open_databases(settings) == databases
    with databases.doc_eval.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_in_utf_8_is_refused_for_each_of_the_three(
    settings: Settings, encoding: str
) -> None:
    server = EmbeddedServer(settings.home)
    server.ensure()
    name = f"in_{encoding.lower()}"
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc"
        )
    try:
        for variable, attribute, _ in (DOC_EVAL, KNOWLEDGE, DAGSTER):
            other = replace(settings, **{attribute: server.url(name)})
            refuses = require_dagster_database if attribute == DAGSTER[1] else open_databases
            with pytest.raises(DatabaseError) as refused:
                refuses(other)
            assert str(refused.value).startswith(f"{variable}: database {name} on ")
            assert str(refused.value).endswith(
                f"is encoded in {encoding}: create a database with ENCODING 'UTF8'"
            )
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.dispose()


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("postgresql+psycopg2://u@h/d", "postgresql://u@h/d"),
        ("postgresql+psycopg2://u:p%40s%2Fs@h:5433/d", "postgresql://u:p%40s%2Fs@h:5433/d"),
        ("postgresql+psycopg2://u:p/w'\"$ `#@h/d", "postgresql://u:p%2Fw%27%22%24%20%60%23@h/d"),
        ("postgresql+psycopg2://u@[::1]:5432/d", "postgresql://u@[::1]:5432/d"),
        ("postgresql+psycopg2:///d?host=/run/my%20server", "postgresql:///d?host=%2Frun%2Fmy%20server"),
        (
            "postgresql+psycopg2://u@/d?host=a:1&host=b:2&sslmode=require",
            "postgresql://u@/d?host=a%2Cb&sslmode=require&port=1%2C2",
        ),
        ("postgresql+psycopg2://u@h/d?options=-c+x%3Dy", "postgresql://u@h/d?options=-c%20x%3Dy"),
    ],
)
def test_a_plain_url_is_one_that_libpq_reads(given: str, plain: str) -> None:
    assert plain_url(given, EmbeddedServer(Path("/nowhere"))) == plain
    read = parse_dsn(plain)
    if "p/w" in given:
        assert read["password"] == "p/w'\"$ `#"
