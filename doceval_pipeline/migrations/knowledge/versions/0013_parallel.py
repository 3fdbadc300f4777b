"""Statements over `current_llm_responses` may run in parallel.

The view calls a function that is pure and was not marked so. PostgreSQL runs no statement over a view in
parallel if one function of the view is not marked, even if the statement does not read its column.
"""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Mark the function of the view."""
    op.execute("ALTER FUNCTION impossible_columns(llm_responses) PARALLEL SAFE")
