"""Numbers of restored rows are reserved by a function, which moves a sequence on and never back.

Both schemas make the same one, from the .sql file beside their folders.
"""

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the function."""
    statements = (Path(__file__).parents[2] / "advance_numbers.sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
