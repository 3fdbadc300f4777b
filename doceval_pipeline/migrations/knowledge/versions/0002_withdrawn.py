"""Rows of documents that left their batch are set aside: kept, but no longer counted."""

from alembic import op

revision = "0002"
down_revision = "0001"

SCHEMA = """
ALTER TABLE llm_responses ADD COLUMN withdrawn_at timestamptz;
COMMENT ON COLUMN llm_responses.withdrawn_at IS
    'Since when the document is no longer one of its batch; the row is kept and not counted.';

CREATE OR REPLACE VIEW current_llm_responses AS
    SELECT r.* FROM llm_responses r
    WHERE r.withdrawn_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM llm_responses newer
        WHERE newer.batch_id = r.batch_id AND newer.document_id = r.document_id
          AND newer.prompt_id = r.prompt_id AND newer.connection_id = r.connection_id
          AND newer.attempt > r.attempt);
"""


def upgrade() -> None:
    """Add the column, and leave such rows out of the current results."""
    op.get_bind().exec_driver_sql(SCHEMA)
