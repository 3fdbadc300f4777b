"""A cancelled batch ends as FAILED, whatever its finished rows contain."""

from alembic import op

revision = "0002"
down_revision = "0001"

SCHEMA = """
ALTER TABLE batches ADD COLUMN cancelled_at timestamptz;
COMMENT ON COLUMN batches.cancelled_at IS 'When a person cancelled it; cleared when it is reprocessed.';
"""


def upgrade() -> None:
    """Add the column."""
    op.get_bind().exec_driver_sql(SCHEMA)
