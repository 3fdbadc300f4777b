"""The installation of a benchmark: a separate home, with a folder for documents beside it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from sqlalchemy import Connection, Engine, text

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import Located, key_path, locate
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings

_TABLES = text("""
    SELECT quote_ident(tablename) FROM pg_tables
    WHERE schemaname = 'public' AND tablename NOT LIKE 'doceval\\_%\\_version' ORDER BY 1
""")
_CHECKPOINT = text("CHECKPOINT")
_WITHOUT_TRIGGERS = text("SET LOCAL session_replication_role = replica")
_RECOUNT = "SELECT recount_responses(n) FROM generate_series(CAST(:first AS int), :last) AS n"
_VARIABLES = ("DOC_EVAL_URL", "KNOWLEDGE_DOCUMENTS_URL", "DAGSTER_POSTGRES_URL", "DOCEVAL_MAX_DOCUMENT_BYTES")


@dataclass(frozen=True)
class Installation:
    """Databases with current schemas, and `folder` for the documents of a benchmark."""

    folder: Path
    databases: Databases

    @property
    def home(self) -> Path:
        """Its `DOCEVAL_HOME`."""
        return self.databases.settings.home

    def empty(self) -> None:
        """Empty both databases, then run a checkpoint."""
        for engine in (self.databases.doc_eval, self.databases.knowledge):
            with engine.begin() as connection:
                tables = ", ".join(connection.scalars(_TABLES))
                connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
        self.checkpoint()

    def empty_queue(self) -> None:
        """Delete all queue rows, then run a checkpoint."""
        self.knowledge("TRUNCATE llm_responses RESTART IDENTITY")
        self.checkpoint()

    def checkpoint(self) -> None:
        """Run a checkpoint, so that no run writes the dirty pages of another one."""
        with _outside_transactions(self.databases.knowledge) as connection:
            connection.execute(_CHECKPOINT)

    def vacuum(self, table: str) -> None:
        """Vacuum and analyze a table of KnowledgeDocuments, as autovacuum eventually would."""
        with _outside_transactions(self.databases.knowledge) as connection:
            connection.execute(text(f"VACUUM ANALYZE {table}"))

    def knowledge(self, statement: str, **parameters: Any) -> list[Any]:
        """Run a statement in KnowledgeDocuments, in a separate transaction."""
        return _run(self.databases.knowledge, statement, parameters)

    def make_rows(self, statement: str, batches: range, **parameters: Any) -> None:
        """Run a statement that creates or changes queue rows of the given batches without a processor.

        Triggers and foreign keys are off, because creating the rows is not measured: checking 10,000,000 rows
        would take minutes. The rows are counted afterwards.
        """
        with self.databases.knowledge.begin() as connection:
            connection.execute(_WITHOUT_TRIGGERS)
            connection.execute(text(statement), parameters)
        self.knowledge(_RECOUNT, first=batches.start, last=batches.stop - 1)

    def doc_eval(self, statement: str, **parameters: Any) -> list[Any]:
        """Run a statement in doc_eval, in a separate transaction."""
        return _run(self.databases.doc_eval, statement, parameters)

    def apply(self, folder: Path, connections: int = 1, prompts: int = 1) -> int:
        """Create a batch over a folder, as `doceval apply` does; returns its number."""
        located = evaluation([str(folder)], connections, prompts, name=f"batch of {folder.name}")
        applied = apply_evaluation(self.databases.doc_eval, located)
        (number,) = applied.numbers.values()
        return number


def evaluation(folders: Sequence[str], connections: int, prompts: int, name: str) -> Located:
    """An evaluation of one batch, with numbered connections and prompts."""
    content = {
        "connections": [
            {
                "name": f"model-{number}",
                "provider": "openai",
                "model": f"model-{number}",
                "base_url": "https://api.example.org/v1",
                "api_key_env": "EXAMPLE_API_KEY",
                "config": {"temperature": 0, "max_tokens": 2000},
            }
            for number in range(connections)
        ],
        "prompts": [{"name": f"prompt-{number}", "text": f"Question {number}?"} for number in range(prompts)],
        "batches": [
            {
                "name": name,
                "folders": list(folders),
                "connections": [f"model-{number}" for number in range(connections)],
                "prompts": [f"prompt-{number}" for number in range(prompts)],
            }
        ],
    }
    return locate(content, None, key_path)


@contextmanager
def installation(below: Path | None = None) -> Iterator[Installation]:
    """A private installation, deleted afterwards.

    Parameters
    ----------
    below
        The parent folder; by default the system's folder for temporary files.
    """
    folder = Path(mkdtemp(prefix="doceval-bench-", dir=below)).resolve()
    before = dict(os.environ)
    for variable in _VARIABLES:
        os.environ.pop(variable, None)
    # Otherwise every process would recompile the code, which does not happen to users.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["DOCEVAL_HOME"] = str(folder / "home")
    (folder / "documents").mkdir()
    try:
        yield Installation(folder / "documents", open_databases(Settings.from_environment()))
    finally:
        EmbeddedServer(folder / "home").stop()
        rmtree(folder)
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _outside_transactions(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def _run(engine: Engine, statement: str, parameters: dict[str, Any]) -> list[Any]:
    with engine.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return list(result) if result.returns_rows else []
