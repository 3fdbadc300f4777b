"""An index by file: files that are removed with their batch are looked up in all other batches."""

from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = """
CREATE INDEX batch_documents_document_id ON batch_documents (document_id);
"""


def upgrade() -> None:
    """Add the index."""
    op.get_bind().exec_driver_sql(SCHEMA)
