"""Comments of the outbox: a batch whose result returns to an earlier one is sent again, under a new id."""

from alembic import op

revision = "0007"
down_revision = "0006"

COMMENTS = """
COMMENT ON TABLE webhook_deliveries IS
    'What is told of the results of batches to the receiver at DOCEVAL_WEBHOOK_URL, each completion once.';
COMMENT ON COLUMN webhook_deliveries.result_digest IS 'Of the result that is told.';
COMMENT ON COLUMN webhook_deliveries.created_at IS
    'Since when there is something to tell; with partition key and digest the id that the receiver sees.';
"""


def upgrade() -> None:
    """Replace the comments."""
    op.get_bind().exec_driver_sql(COMMENTS)
