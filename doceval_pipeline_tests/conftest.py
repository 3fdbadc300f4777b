"""Real parts for the tests: one embedded PostgreSQL and one Dagster home for all of them."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.invariants import audit
from doceval_pipeline.batches.locks import batches_at_work
from doceval_pipeline.batches.staging.steps import (
    assign_documents,
    queue_evaluations,
    seal_batch,
    store_documents,
)
from doceval_pipeline.defs.instance import open_instance
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import Located, key_path, locate
from doceval_pipeline.embedded.account import choose_account
from doceval_pipeline.embedded.server import EmbeddedServer, server_program
from doceval_pipeline.errors import EmbeddedServerError
from doceval_pipeline.settings import Settings

VARIABLES = ("DOC_EVAL_URL", "KNOWLEDGE_DOCUMENTS_URL", "DAGSTER_POSTGRES_URL", "DOCEVAL_MAX_DOCUMENT_BYTES")
# Markers of tests that take long or need programs of others, and folders whose tests start processes.
SLOW = {"browser", "slow", "outsiders", "faults"}
START_PROCESSES = {"benchmarks", "cli", "conformance", "embedded", "examples"}
EMPTY_DOC_EVAL = text("""
    TRUNCATE batches, folders, documents, connections, prompts, llm_providers, models, batch_folders,
             batch_connections, batch_prompts, batch_documents, batch_progress, connection_history,
             webhook_deliveries, run_requests, live_runs, lost_runs,
             recurring_evaluations, occurrences, recurring_files
""")
EMPTY_KNOWLEDGE = text("""
    TRUNCATE docs, llm_responses, batch_configs, response_counts, response_deltas, reprocess_requests,
             batch_questions
""")


def pytest_sessionstart(session: pytest.Session) -> None:
    """End in one line where no test could start a database server."""
    if hasattr(session.config, "workerinput"):
        return
    try:
        account = choose_account(Path(tempfile.gettempdir()), None, server_program())
    except EmbeddedServerError as error:
        raise pytest.UsageError(str(error)) from None
    if account.uid != os.geteuid():
        raise pytest.UsageError(
            "user namespaces are refused here, and without them root's PostgreSQL cannot enter the private "
            "folders of tests: run the tests as a normal user, or allow user namespaces"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as fast what needs no server: tests of pure functions and of single modules."""
    for item in items:
        needs_server = "settings" in getattr(item, "fixturenames", ())
        is_slow = any(mark.name in SLOW for mark in item.iter_markers())
        if not needs_server and not is_slow and START_PROCESSES.isdisjoint(item.path.parts):
            item.add_marker(pytest.mark.fast)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation of its own, also for the processes that tests start."""
    home = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    for variable in VARIABLES:
        os.environ.pop(variable, None)
    os.environ["DOCEVAL_HOME"] = str(home)
    server = EmbeddedServer(home)
    server.ensure()
    _sync_nothing(server)
    yield Settings.from_environment()
    server.stop()
    os.environ.clear()
    os.environ.update(before)


def _sync_nothing(server: EmbeddedServer) -> None:
    """Switch fsync off: tests kill processes, never the machine, and empty tables often."""
    with closing(server.connect("postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("ALTER SYSTEM SET fsync = off")
            cursor.execute("SELECT pg_reload_conf()")


@pytest.fixture(autouse=True)
def _environment_as_it_was() -> Iterator[None]:
    """What a test, or a command that it runs in this process, sets is not inherited by the next one."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit looks twice at what it finds, and need not wait where nobody works beside it."""
    monkeypatch.setattr(audit, "SECONDS_TO_RECHECK", 0.0)


def empty_databases(settings: Settings) -> Databases:
    """Both databases, empty."""
    opened = open_databases(settings)
    with opened.doc_eval.begin() as connection:
        connection.execute(EMPTY_DOC_EVAL)
    with opened.knowledge.begin() as connection:
        connection.execute(EMPTY_KNOWLEDGE)
    return opened


@pytest.fixture
def databases(settings: Settings) -> Databases:
    """Both databases, empty."""
    return empty_databases(settings)


def write_old(path: Path, content: str) -> None:
    """Write a file that looks as if it had been left alone, so that reading it need not wait."""
    path.write_text(content)
    os.utime(path, (1_000_000_000, 1_000_000_000))


@pytest.fixture
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of the tests' installation."""
    with open_instance(settings) as opened:
        yield opened


@dataclass
class Sample:
    """A batch that a test made, and shortcuts to what tests ask of one."""

    databases: Databases
    id: int
    name: str
    folder: Path

    @property
    def key(self) -> str:
        return partition_key(self.id)

    def stage(self) -> None:
        """All four steps."""
        seal_batch(self.databases, self.id)
        assign_documents(self.databases, self.id)
        store_documents(self.databases, self.id, lambda *_: None)
        queue_evaluations(self.databases, self.id)

    def status(self) -> str:
        return str(self.doc_eval("SELECT status FROM batches WHERE id = :id")[0][0])

    def is_at_work(self) -> bool:
        """Whether a living process works on it."""
        with self.databases.doc_eval.connect() as connection:
            return self.id in batches_at_work(connection)

    def doc_eval(self, statement: str, **parameters: Any) -> list[Any]:
        with self.databases.doc_eval.begin() as connection:
            result = connection.execute(text(statement), {"id": self.id, **parameters})
            return list(result) if result.returns_rows else []

    def knowledge(self, statement: str, **parameters: Any) -> list[Any]:
        with self.databases.knowledge.begin() as connection:
            result = connection.execute(text(statement), {"id": self.id, **parameters})
            return list(result) if result.returns_rows else []

    def plant(self, statement: str, **parameters: Any) -> None:
        """Change rows as a restored backup or an owner at the console may, past the guard of results."""
        with self.databases.knowledge.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(statement), parameters)


def evaluation_of(
    batches: list[dict[str, Any]],
    connections: int = 2,
    prompts: int = 2,
    why_not: Callable[[str], str | None] = lambda folder: None,
) -> Located:
    """A validated evaluation with numbered connections and prompts, which each batch selects."""
    content = {
        "connections": [
            {"name": f"model-{n}", "provider": "simulation", "model": f"m{n}", "api_key_env": "SOME_KEY"}
            for n in range(connections)
        ],
        "prompts": [{"name": f"prompt-{n}", "text": f"Question {n}?"} for n in range(prompts)],
        "batches": [
            {
                "connections": [f"model-{n}" for n in range(connections)],
                "prompts": [f"prompt-{n}" for n in range(prompts)],
                **batch,
            }
            for batch in batches
        ],
    }
    return locate(content, None, key_path, why_not)


def sample_batch(
    databases: Databases,
    base: Path,
    documents: int = 8,
    connections: int = 2,
    prompts: int = 2,
    name: str = "sample",
) -> Sample:
    """A batch over a folder, below `base`, of small distinct documents."""
    folder = base / name
    folder.mkdir()
    for number in range(documents):
        write_old(folder / f"{number:03}.txt", f"document {number} of {name}\n" * (number + 1))
    located = evaluation_of([{"name": name, "folders": [str(folder)]}], connections, prompts)
    applied = apply_evaluation(databases.doc_eval, located)
    return Sample(databases, applied.numbers[name], name, folder)


@pytest.fixture
def batch_of(databases: Databases, tmp_path: Path) -> Callable[..., Sample]:
    """Makes a batch over a folder of small distinct documents."""
    return partial(sample_batch, databases, tmp_path)
