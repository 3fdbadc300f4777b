"""Long-lived batches: prices, start times, progress samples, usage history and archives."""

from alembic import op

revision = "0003"
down_revision = "0002"

SCHEMA = """
ALTER TABLE connections ADD COLUMN prices jsonb CHECK (jsonb_typeof(prices) = 'object');
COMMENT ON COLUMN connections.prices IS
    'What the provider asks: input_per_million and output_per_million tokens, in currency.';

ALTER TABLE batches
    ADD COLUMN stage_after    timestamptz,
    ADD COLUMN archived_at    timestamptz,
    ADD COLUMN archive_file   text,
    ADD COLUMN archive_sha256 text CHECK (archive_sha256 ~ '^[0-9a-f]{64}$'),
    ADD CONSTRAINT batches_archive_named CHECK (
        (archived_at IS NULL) = (archive_file IS NULL) AND (archived_at IS NULL) = (archive_sha256 IS NULL));
COMMENT ON COLUMN batches.stage_after IS 'Staging begins by itself once this time is past.';
COMMENT ON COLUMN batches.archived_at IS
    'Since when its rows stand in archive_file, below $DOCEVAL_HOME/archives, and no longer here.';

CREATE TABLE batch_progress (
    batch_id    int NOT NULL REFERENCES batches,
    observed_at timestamptz NOT NULL DEFAULT now(),
    waiting     bigint NOT NULL,
    running     bigint NOT NULL,
    paused      bigint NOT NULL,
    succeeded   bigint NOT NULL,
    failed      bigint NOT NULL,
    unknown     bigint NOT NULL,
    PRIMARY KEY (batch_id, observed_at)
);
COMMENT ON TABLE batch_progress IS
    'Cells of a batch by outcome, whenever a look at the queue found other numbers than the last one.';

CREATE TABLE connection_history (
    batch_id      int NOT NULL REFERENCES batches,
    connection_id int NOT NULL REFERENCES connections,
    measure       text NOT NULL CHECK (measure IN ('input_tokens', 'output_tokens', 'seconds')),
    cells         bigint NOT NULL CHECK (cells > 0),
    sum_x         double precision NOT NULL,
    sum_xx        double precision NOT NULL,
    sum_y         double precision NOT NULL,
    sum_yy        double precision NOT NULL,
    sum_xy        double precision NOT NULL,
    max_y         double precision NOT NULL,
    PRIMARY KEY (batch_id, connection_id, measure)
);
COMMENT ON TABLE connection_history IS
    'What finished attempts of a batch took, as sums over them: x is the size of the document in bytes, '
    'y the measure. Kept when the batch is archived.';
"""


def upgrade() -> None:
    """Add the columns and tables."""
    op.get_bind().exec_driver_sql(SCHEMA)
