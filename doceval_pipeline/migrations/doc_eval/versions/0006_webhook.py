"""Outbox of the completion webhook, which survives restarts."""

from alembic import op

revision = "0006"
down_revision = "0005"

SCHEMA = """
CREATE TABLE webhook_deliveries (
    batch_id        int NOT NULL REFERENCES batches,
    result_digest   text NOT NULL,
    payload         text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    attempts        int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at timestamptz DEFAULT now(),
    delivered_at    timestamptz,
    given_up_at     timestamptz,
    last_failure    text,
    PRIMARY KEY (batch_id, result_digest),
    CONSTRAINT webhook_deliveries_one_fate CHECK (
        num_nonnulls(next_attempt_at, delivered_at, given_up_at) = 1),
    CONSTRAINT webhook_deliveries_failed_first CHECK (given_up_at IS NULL OR last_failure IS NOT NULL)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_at)
    WHERE next_attempt_at IS NOT NULL;
COMMENT ON TABLE webhook_deliveries IS
    'What is told of the results of batches to the receiver at DOCEVAL_WEBHOOK_URL, each result once.';
COMMENT ON COLUMN webhook_deliveries.result_digest IS
    'Of the result that is told; with the partition key it is the id that the receiver sees.';
COMMENT ON COLUMN webhook_deliveries.payload IS 'The body, the same bytes with every attempt.';
COMMENT ON COLUMN webhook_deliveries.created_at IS 'Since when there is something to tell.';
COMMENT ON COLUMN webhook_deliveries.attempts IS 'Attempts that were begun; of one that was killed too.';
COMMENT ON COLUMN webhook_deliveries.next_attempt_at IS
    'When it is sent, or sent again; moved on before an attempt begins. NULL where none is left to make.';
COMMENT ON COLUMN webhook_deliveries.delivered_at IS 'When the receiver answered that it has it.';
COMMENT ON COLUMN webhook_deliveries.given_up_at IS 'When it had failed for too long to be tried again.';
COMMENT ON COLUMN webhook_deliveries.last_failure IS
    'Why the last attempt that failed did: a sentence of ours, nothing that the receiver said.';
"""


def upgrade() -> None:
    """Add the table."""
    op.get_bind().exec_driver_sql(SCHEMA)
