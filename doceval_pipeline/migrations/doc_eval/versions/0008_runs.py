"""Which runs Dagster was asked for, which are alive, and which ended before they began."""

from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = """
CREATE TABLE run_requests (
    batch_id      int NOT NULL REFERENCES batches,
    kind          text NOT NULL CHECK (kind IN ('stage', 'report')),
    word          text NOT NULL,
    attempt       int NOT NULL CHECK (attempt >= 1),
    asked_at      timestamptz NOT NULL DEFAULT now(),
    due_at        timestamptz NOT NULL,
    last_end      text,
    last_ended_at timestamptz,
    PRIMARY KEY (batch_id, kind),
    CONSTRAINT run_requests_ended_somehow CHECK ((last_end IS NULL) = (last_ended_at IS NULL))
);
COMMENT ON TABLE run_requests IS
    'Requests for runs that stage or report a batch: the newest attempt of each.';
COMMENT ON COLUMN run_requests.kind IS 'stage or report.';
COMMENT ON COLUMN run_requests.word IS
    'What is asked for: the time of a staging request, or the digest of a result with its completion time.';
COMMENT ON COLUMN run_requests.attempt IS 'Number of the newest attempt; part of its run key in Dagster.';
COMMENT ON COLUMN run_requests.asked_at IS 'When Dagster was asked for the newest attempt.';
COMMENT ON COLUMN run_requests.due_at IS
    'When Dagster is asked how the run goes, and for a new one where it ended without success.';
COMMENT ON COLUMN run_requests.last_end IS 'Status with which the newest run ended, in Dagster''s words.';
COMMENT ON COLUMN run_requests.last_ended_at IS 'When that run ended.';

CREATE TABLE live_runs (
    id            int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        text NOT NULL UNIQUE,
    job           text NOT NULL,
    process       text,
    started_at    timestamptz NOT NULL DEFAULT now(),
    missing_since timestamptz
);
COMMENT ON TABLE live_runs IS
    'Runs of Dagster that have not ended; the process of each holds an advisory lock with the id.';
COMMENT ON COLUMN live_runs.run_id IS 'The run in Dagster.';
COMMENT ON COLUMN live_runs.process IS
    'Host and process number. NULL where a run has begun and none of its processes was seen yet.';
COMMENT ON COLUMN live_runs.missing_since IS 'Since when no process was seen to hold the lock.';

CREATE TABLE lost_runs (
    run_id     text PRIMARY KEY,
    job        text NOT NULL,
    batch_id   int,
    batch_name text,
    status     text NOT NULL,
    ended_at   timestamptz NOT NULL
);
COMMENT ON TABLE lost_runs IS
    'Runs that ended before they began and that no later run has replaced, as a sensor found them.';
COMMENT ON COLUMN lost_runs.batch_id IS 'The batch of its partition. NULL for a run without one.';
COMMENT ON COLUMN lost_runs.batch_name IS 'The batch that the run was to create.';
COMMENT ON COLUMN lost_runs.status IS 'Status of the run, in Dagster''s words.';
"""


def upgrade() -> None:
    """Add the tables."""
    op.get_bind().exec_driver_sql(SCHEMA)
