"""Records fulfilled requests for new attempts, so that a retried run does not repeat them.

Otherwise a run that is retried after its attempts were processed and failed again would queue more.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

SCHEMA = """
CREATE TABLE reprocess_requests (
    batch_id     int         NOT NULL,
    request      text        NOT NULL CHECK (length(request) BETWEEN 1 AND 200),
    new_attempts int         NOT NULL CHECK (new_attempts >= 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, request)
);
COMMENT ON TABLE reprocess_requests IS
    'One row per batch and request for new attempts, written in the transaction that queues them.';
COMMENT ON COLUMN reprocess_requests.request IS
    'The Dagster run that first made the request; its retries make the same one.';
COMMENT ON COLUMN reprocess_requests.new_attempts IS
    'How many attempts the request queued; 0 where nothing was to be done.';
"""


def upgrade() -> None:
    """Create the table."""
    op.get_bind().exec_driver_sql(SCHEMA)
