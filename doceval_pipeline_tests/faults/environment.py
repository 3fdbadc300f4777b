"""The environment of faults: a reproducible batch, and its comparable state.

Two runs of the same batch differ in times, in ids that rolled back transactions used up, and in values
derived from such ids. Everything else must be equal.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline_tests.cli.running import until
from doceval_pipeline_tests.conftest import EMPTY_DOC_EVAL, EMPTY_KNOWLEDGE, Sample, evaluation_of, write_old

State = dict[str, list[Any]]

DOCUMENTS = 10
_KNOWLEDGE = {
    "docs": """
        SELECT sha256, md5(content), content_type, doc_type, file_size FROM docs ORDER BY sha256
    """,
    "configurations": """
        SELECT batch_id, sha256, md5(config::text), requeue_as FROM batch_configs ORDER BY batch_id
    """,
    "rows": """
        SELECT r.batch_id, d.sha256, r.prompt_id, r.connection_id, r.attempt, r.status, r.file_name,
               r.connection_details::text, r.response_text, r.overall_score, r.error_message,
               r.withdrawn_at IS NULL, r.superseded_at IS NULL
        FROM llm_responses r JOIN docs d ON d.id = r.document_id ORDER BY 1, 2, 3, 4, 5
    """,
    "requests": "SELECT batch_id, request, new_attempts FROM reprocess_requests ORDER BY 1, 2",
    "counts": """
        SELECT batch_id, sum(waiting), sum(running), sum(paused), sum(succeeded), sum(failed), sum(unknown)
        FROM (SELECT * FROM response_counts UNION ALL SELECT *, 0 FROM response_deltas) AS kept
        GROUP BY 1 ORDER BY 1
    """,
}
_DOC_EVAL = {
    "batches": """
        SELECT id, status, total_documents, processed_documents, expected_cells, config_sha256,
               failure_reason, started_at IS NULL, completed_at IS NULL, cancelled_at IS NULL,
               result_digest IS NULL, reported_digest IS NOT DISTINCT FROM result_digest
        FROM batches ORDER BY id
    """,
    "files": """
        SELECT b.batch_id, d.filepath, b.state, b.reason, b.file_size, b.sha256, b.content_type, b.doc_type,
               b.knowledge_document_id IS NULL
        FROM batch_documents b JOIN documents d ON d.id = b.document_id ORDER BY 1, 2
    """,
    "known files": "SELECT filepath FROM documents ORDER BY 1",
    "history": """
        SELECT batch_id, connection_id, measure, cells, sum_x, sum_y FROM connection_history ORDER BY 1, 2, 3
    """,
}
_RESULTS = """
    SELECT id, attempt, status, response_text, overall_score, error_message, input_tokens, output_tokens
    FROM llm_responses WHERE status IN ('S', 'F')
"""
_BROKEN = "SELECT sha256 FROM docs WHERE encode(sha256(decode(content, 'base64')), 'hex') <> sha256"
ANSWER = """
    UPDATE llm_responses r
    SET status = CASE WHEN d.doc_type = 'md' THEN 'F' ELSE 'S' END, overall_score = d.file_size % 100,
        response_text = 'about ' || d.sha256, input_tokens = 7, output_tokens = 3, time_taken_seconds = 0.5
    FROM docs d WHERE d.id = r.document_id AND r.batch_id = :id AND r.status = 'QUEUED'
"""


@dataclass
class Environment:
    """Both databases and a folder, with one batch at a time."""

    databases: Databases
    folder: Path

    def new_batch(self, copies: int = 1) -> Sample:
        """Empties everything and creates the batch again: same ids, same files, of two types."""
        return self.new_batches(1, DOCUMENTS, 2, 2, copies)[0]

    def new_batches(
        self, batches: int, documents: int, connections: int, prompts: int, copies: int = 1
    ) -> list[Sample]:
        """Empties everything and creates batches of the same files that differ only in their names."""
        self._empty()
        for number in range(documents):
            name = f"{number:03}.{'md' if number % 3 == 0 else 'txt'}"
            write_old(self.folder / name, f"document {number}\n" * (number + 1) * copies)
        chosen = [{"name": f"sample {n}x", "folders": [str(self.folder)]} for n in range(batches)]
        evaluation = evaluation_of(chosen, connections, prompts)
        numbers = apply_evaluation(self.databases.doc_eval, evaluation).numbers
        return [Sample(self.databases, number, name, self.folder) for name, number in numbers.items()]

    def _empty(self) -> None:
        with self.databases.doc_eval.begin() as connection:
            connection.exec_driver_sql(f"{EMPTY_DOC_EVAL.text} RESTART IDENTITY")
        with self.databases.knowledge.begin() as connection:
            connection.exec_driver_sql(f"{EMPTY_KNOWLEDGE.text} RESTART IDENTITY")
        shutil.rmtree(self.databases.settings.reports, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def disconnect(self) -> None:
        """Closes this process's own connections, so that faults of backends affect other processes."""
        self.databases.doc_eval.dispose()
        self.databases.knowledge.dispose()

    def tick(self) -> None:
        """Polls twice, as the sensor may need to: a reopened batch is ANALYZING one poll later."""
        poll(self.databases)
        poll(self.databases)

    def state(self, batch: Sample) -> State:
        """The contents of both databases and the reports folder, without ids and times."""
        found = {what: batch.knowledge(statement) for what, statement in _KNOWLEDGE.items()}
        found |= {what: batch.doc_eval(statement) for what, statement in _DOC_EVAL.items()}
        found["reports"] = [len(list(self.databases.settings.reports.glob("batch-*.html")))]
        return found

    def require(self, batch: Sample, undisturbed: State) -> None:
        """Requires the state of an undisturbed run, no violations, and no process working on the batch."""
        found = self.state(batch)
        differ = {what: set(rows) ^ set(undisturbed[what]) for what, rows in found.items()}
        assert found == undisturbed, {what: rows for what, rows in differ.items() if rows}
        self.require_nothing_wrong()
        # The backend of a killed process that was waiting may need time to notice.
        until(lambda: not batch.is_at_work(), seconds=30)

    def results(self, batch: Sample) -> set[Any]:
        """Results written by processors."""
        return set(batch.knowledge(_RESULTS))

    def require_nothing_lost(self, batch: Sample, results: set[Any]) -> None:
        """Requires that no result changed and all documents are intact, however much work remains."""
        assert results <= self.results(batch)
        assert batch.knowledge(_BROKEN) == []

    def require_nothing_wrong(self) -> None:
        """Requires that the audit finds no violations, with every document decoded."""
        findings = audit_installation(self.databases, lambda *_: None, every_document=True)
        wrong = [f"{finding.invariant}: {finding.problem}" for finding in findings]
        assert not wrong, wrong
