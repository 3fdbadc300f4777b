"""The batch that faults happen to, made the same every time, and all that may be compared of it.

Two runs of the same batch differ in times, in ids that a rolled back transaction has used up, and in what
is made of such ids. Everything else must be equal.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import look
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
class Scene:
    """Both databases and a folder, of which there is one batch at a time."""

    databases: Databases
    folder: Path

    def new_batch(self, copies: int = 1) -> Sample:
        """Empty everything and make the batch anew: the same numbers, the same files, of two types."""
        return self.new_batches(1, DOCUMENTS, 2, 2, copies)[0]

    def new_batches(
        self, batches: int, documents: int, connections: int, prompts: int, copies: int = 1
    ) -> list[Sample]:
        """Empty everything and make batches of the same files, which differ in nothing but their names."""
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
        """Give up this process's own connections, so that what happens to backends happens to others."""
        self.databases.doc_eval.dispose()
        self.databases.knowledge.dispose()

    def tick(self) -> None:
        """Look as often as the sensor may have to: what opens again is ANALYZING a look later."""
        look(self.databases)
        look(self.databases)

    def state(self, batch: Sample) -> State:
        """All that both databases and the folder of reports hold, without ids and times."""
        found = {what: batch.knowledge(statement) for what, statement in _KNOWLEDGE.items()}
        found |= {what: batch.doc_eval(statement) for what, statement in _DOC_EVAL.items()}
        found["reports"] = [len(list(self.databases.settings.reports.glob("batch-*.html")))]
        return found

    def require(self, batch: Sample, undisturbed: State) -> None:
        """The state is that of an undisturbed run, nothing is wrong with it, and nobody holds the batch."""
        found = self.state(batch)
        differ = {what: set(rows) ^ set(undisturbed[what]) for what, rows in found.items()}
        assert found == undisturbed, {what: rows for what, rows in differ.items() if rows}
        self.require_nothing_wrong()
        # The backend of a process that was killed while it waited may have to see first that it is gone.
        until(lambda: not batch.is_at_work(), seconds=30)

    def results(self, batch: Sample) -> set[Any]:
        """The results that processors have written."""
        return set(batch.knowledge(_RESULTS))

    def require_nothing_lost(self, batch: Sample, results: set[Any]) -> None:
        """Results stand as they were and contents are whole, however much is left to do."""
        assert results <= self.results(batch)
        assert batch.knowledge(_BROKEN) == []

    def require_nothing_wrong(self) -> None:
        """The audit finds nothing, every document decoded."""
        found = audit_installation(self.databases, lambda *_: None, every_document=True)
        wrong = [f"{violation.invariant}: {violation.problem}" for violation in found]
        assert not wrong, wrong
