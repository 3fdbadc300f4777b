"""A function reserves the ids of restored rows: it advances a sequence and never moves it back.

Both schemas create the same function from the .sql file beside their folders.
"""

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the function."""
    statements = (Path(__file__).parents[2] / "advance_numbers.sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
