"""Priorities of batches in the queue."""

from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = """
ALTER TABLE batches ADD COLUMN priority int NOT NULL DEFAULT 10
    CONSTRAINT batches_priority_known CHECK (priority BETWEEN 1 AND 100);
COMMENT ON COLUMN batches.priority IS
    'Share of the deliveries relative to other batches, for rows that are queued from now on.';
"""


def upgrade() -> None:
    """Add the column."""
    op.get_bind().exec_driver_sql(SCHEMA)
