"""Disables parallel reads of `response_deltas`, because starting a worker takes longer than reading it.

After many results the table is large but empty for up to a minute, until it is vacuumed.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Set the storage parameter."""
    op.get_bind().exec_driver_sql("ALTER TABLE response_deltas SET (parallel_workers = 0)")
