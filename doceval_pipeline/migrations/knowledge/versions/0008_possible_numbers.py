"""Keeps results, but drops impossible numbers and times in them.

The statements are in the .sql file beside this one.
"""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column, replace the trigger, the view and the functions, and clean up stored values."""
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
