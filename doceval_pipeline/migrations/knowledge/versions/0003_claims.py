"""Claims with leases, a fair order of the queue, and a guard for results.

The statements are in the .sql files beside this one: columns and order of the queue, functions for
processors, and the guard.
"""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"

PARTS = ("queue", "claims", "guard")


def upgrade() -> None:
    """Add the columns, position the waiting rows, create the functions and the guard."""
    for part in PARTS:
        statements = Path(__file__).with_name(f"0003_{part}.sql").read_text(encoding="utf-8")
        # The functions contain percent signs, which the driver would treat as parameters.
        op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
