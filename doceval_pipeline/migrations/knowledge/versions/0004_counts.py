"""Counts of evaluations by outcome, maintained by triggers; marks superseded rows.

The statements are in the .sql file beside this one.
"""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables, the column and the triggers, and count what is there."""
    statements = Path(__file__).with_name("0004_counts.sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
