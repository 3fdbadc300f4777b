"""An installation with a batch in every state, as months of use leave it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, cancel, pause, reprocess
from doceval_pipeline.migrations.upgrade import Schema
from doceval_pipeline_tests.conftest import Sample, write_old

BatchOf = Callable[..., Sample]
ANSWER = """
    UPDATE llm_responses SET status = CASE WHEN prompt_id = (SELECT min(prompt_id) FROM llm_responses)
                                           THEN 'S' ELSE 'F' END,
                             overall_score = 50, response_text = 'fine'
    WHERE batch_id = :id AND status = 'QUEUED'
"""


def quiet(*_: int) -> None:
    """A progress callback that does nothing."""


TABLES = {
    Schema.DOC_EVAL: """llm_providers models connections prompts folders batches batch_folders
        batch_connections batch_prompts documents batch_documents batch_progress connection_history
        webhook_deliveries run_requests live_runs lost_runs""",
    Schema.KNOWLEDGE: """docs llm_responses batch_configs response_counts response_deltas reprocess_requests
        batch_questions""",
}
LEASE_WHOLE = """
    ALTER TABLE llm_responses DROP CONSTRAINT IF EXISTS llm_responses_lease_whole;
    ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_lease_whole
        CHECK (lease_expires_at IS NULL OR (status = 'P' AND lease_token IS NOT NULL))
"""


@dataclass
class Installation:
    """Its batches by their state."""

    databases: Databases
    batches: dict[str, Sample]
    files: dict[Path, bytes] = field(default_factory=dict)

    def __getitem__(self, state: str) -> Sample:
        return self.batches[state]

    def save(self) -> None:
        """Copies every row and file."""
        for connection, table in self._tables():
            connection.exec_driver_sql(f"CREATE TABLE copy_of_{table} AS TABLE {table}")
        settings = self.databases.settings
        for folder in (settings.reports, settings.archives):
            self.files |= {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def restore(self) -> None:
        """Restores every row and file from the copies."""
        for connection, table in self._tables():
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql(f"DELETE FROM {table}")
            connection.exec_driver_sql(f"INSERT INTO {table} TABLE copy_of_{table}")
        with self.databases.knowledge.begin() as connection:
            connection.exec_driver_sql(LEASE_WHOLE)
        for path, content in self.files.items():
            path.write_bytes(content)

    def drop_copies(self) -> None:
        """Drops the copies of the tables."""
        for connection, table in self._tables():
            connection.exec_driver_sql(f"DROP TABLE copy_of_{table}")

    def _tables(self) -> Iterator[tuple[Connection, str]]:
        engines = {Schema.DOC_EVAL: self.databases.doc_eval, Schema.KNOWLEDGE: self.databases.knowledge}
        for schema, engine in engines.items():
            with engine.begin() as connection:
                for table in (*TABLES[schema].split(), schema.version_table):
                    yield connection, table


def close(batch: Sample) -> None:
    """Completes the queued rows, polls, and writes the report."""
    batch.knowledge(ANSWER)
    poll(batch.databases)
    write_report(batch.databases, batch.id)


def reuse_results(batch: Sample, earlier: Sample) -> None:
    """Gives a batch a document of an earlier one, so that it reuses the existing results."""
    write_old(batch.folder / "000.txt", (earlier.folder / "001.txt").read_text())
    batch.doc_eval("UPDATE batches SET reuse = 'finished' WHERE id = :id")
    batch.stage()
    close(batch)


def used_installation(batch_of: BatchOf) -> Installation:
    """An installation with batches in every state: saved, running, paused, cancelled, archived and so on."""
    names = ("saved", "paused", "cancelled", "reprocessed", "rescanned", "archived", "running", "reusing")
    batches = {name: batch_of(documents=2, name=name) for name in names}
    databases = batches["saved"].databases
    for name in names[1:-1]:
        batches[name].stage()
    pause(databases, batches["paused"].id)
    batches["cancelled"].knowledge(
        "UPDATE llm_responses SET status = 'S' WHERE id = (SELECT min(id) FROM llm_responses "
        "WHERE batch_id = :id)"
    )
    cancel(databases, batches["cancelled"].id)
    for name in ("reprocessed", "rescanned", "archived"):
        close(batches[name])
    reprocess(databases, batches["reprocessed"].id, Mode.failed, quiet)
    close(batches["reprocessed"])
    (batches["rescanned"].folder / "000.txt").unlink()
    reprocess(databases, batches["rescanned"].id, Mode.failed, quiet, rescan=True)
    close(batches["rescanned"])
    archive(databases, batches["archived"].id, quiet, quiet)
    batches["running"].knowledge("SELECT * FROM claim_responses(1, '1 hour')")
    batches["running"].knowledge(
        "UPDATE llm_responses SET status = 'P' WHERE id = (SELECT max(id) FROM llm_responses "
        "WHERE batch_id = :id)"
    )
    reuse_results(batches["reusing"], batches["rescanned"])
    poll(databases)
    return Installation(databases, batches)
