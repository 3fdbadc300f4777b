"""Rows that are deferred until a given time, and releases that do not count as a delivery.

The statements are in the .sql file beside this one.
"""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns, leave deferred rows out of the queue's index, and replace the functions."""
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
