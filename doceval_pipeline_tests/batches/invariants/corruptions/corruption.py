"""A fault that is planted behind the back of the pipeline, and what must be named for it."""

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
class Plant:
    """A fault in one batch.

    `doc_eval` and `knowledge` are statements, the latter past all triggers; `named` is a query, in
    KnowledgeDocuments unless `named_in` says otherwise, for what the audit must name as a whole, asked
    before; `mend` is a part of what it must say to do.
    """

    batch: str
    named: str
    mend: str
    doc_eval: str = ""
    knowledge: str = ""
    act: Callable[[Installation], Databases | None] | None = None
    named_in: str = "knowledge"

    def things(self, installation: Installation) -> list[str]:
        """What the audit must name."""
        batch = installation[self.batch]
        ask = batch.doc_eval if self.named_in == "doc_eval" else batch.knowledge
        return [row[0] for row in ask(self.named.format(id=batch.id))]

    def set(self, installation: Installation) -> Databases:
        """Do it; gives the installation as it is found from then on."""
        batch = installation[self.batch]
        if self.doc_eval:
            batch.doc_eval(self.doc_eval.format(id=batch.id))
        if self.knowledge:
            batch.plant(self.knowledge.format(id=batch.id))
        found = self.act(installation) if self.act is not None else None
        return found or installation.databases
