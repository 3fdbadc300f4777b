"""Limits the size of what processors write, so that every row can be read again.

The statements are in the .sql file beside this one.
"""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the trigger and, if all rows fit, the constraint; shorten larger values in the view."""
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
