"""A corruption of the databases or files, and what the audit must report for it."""

from collections.abc import Callable
from dataclasses import dataclass

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline_tests.batches.invariants.installation import Installation

ROW = "(SELECT min(id) FROM llm_responses WHERE batch_id = {id})"
DOCUMENT = "(SELECT min(document_id) FROM llm_responses WHERE batch_id = {id})"
FILE = "(SELECT min(document_id) FROM batch_documents WHERE batch_id = {id})"
LEASED = "(SELECT min(id) FROM llm_responses WHERE lease_expires_at IS NOT NULL)"
CELL = "r.document_id, r.prompt_id, r.connection_id"
REUSED = "(SELECT min(id) FROM llm_responses WHERE batch_id = {id} AND reused_from IS NOT NULL)"
THE_ROW = f"SELECT 'llm_responses.id ' || {ROW}"
THE_DOCUMENT = f"SELECT 'docs.id ' || {DOCUMENT}"
THE_CELL = f"""
    SELECT format('document %s, prompt %s, connection %s', {CELL}) FROM llm_responses r WHERE r.id = {ROW}
"""


@dataclass(frozen=True)
class Corruption:
    """A corruption of one batch.

    `doc_eval` and `knowledge` are statements, the latter bypassing all triggers. `reported` is a query for
    all subjects that the audit must report, executed before the corruption, in the database `reported_in`.
    `fix` is a part of the fix that it must suggest.
    """

    batch: str
    reported: str
    fix: str
    doc_eval: str = ""
    knowledge: str = ""
    operation: Callable[[Installation], Databases | None] | None = None
    reported_in: str = "knowledge"

    def subjects(self, installation: Installation) -> list[str]:
        """The subjects that the audit must report."""
        batch = installation[self.batch]
        query = batch.doc_eval if self.reported_in == "doc_eval" else batch.knowledge
        return [row[0] for row in query(self.reported.format(id=batch.id))]

    def apply(self, installation: Installation) -> Databases:
        """Applies the corruption; returns the databases that the audit must use afterwards."""
        batch = installation[self.batch]
        if self.doc_eval:
            batch.doc_eval(self.doc_eval.format(id=batch.id))
        if self.knowledge:
            batch.plant(self.knowledge.format(id=batch.id))
        databases = self.operation(installation) if self.operation is not None else None
        return databases or installation.databases
