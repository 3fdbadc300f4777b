"""Completed batches keep their prices and report file. Names are unique as people read them."""

from alembic import op

revision = "0009"
down_revision = "0008"

SCHEMA = r"""
ALTER TABLE batches
    ADD COLUMN prices_at_completion jsonb CHECK (jsonb_typeof(prices_at_completion) = 'object'),
    ADD COLUMN report_file text CONSTRAINT batches_report_file_named
        CHECK (report_file ~ '^batch-[0-9]{6,10}-[0-9a-f]{16}\.html$');
COMMENT ON COLUMN batches.prices_at_completion IS
    'Prices of its connections when the batch was completed, by connections.id. NULL while it is open.';
COMMENT ON COLUMN batches.report_file IS 'Name of the file of the newest report.';

-- What they cost was shown with the present prices until now.
UPDATE batches b SET prices_at_completion = coalesce((
    SELECT jsonb_object_agg(c.id, c.prices)
    FROM batch_connections l JOIN connections c ON c.id = l.connection_id
    WHERE l.batch_id = b.id AND c.prices IS NOT NULL), '{}')
WHERE b.status IN ('COMPLETED', 'FAILED');
-- Reports were named after the results until now.
UPDATE batches
SET report_file =
    concat('batch-', lpad(id::text, greatest(6, length(id::text)), '0'), '-', reported_digest, '.html')
WHERE reported_digest ~ '^[0-9a-f]{16}$';

-- Names that differ in their Unicode form only may have been stored before; they stay, and the index is not
-- unique then.
DO $$
DECLARE
    names constant text[][] := ARRAY[['batches', 'batch_name'], ['connections', 'name'], ['prompts', 'name']];
    place int;
    same  boolean;
BEGIN
    FOR place IN 1 .. 3 LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %%I GROUP BY normalize(%%I, NFC) HAVING count(*) > 1)',
                       names[place][1], names[place][2]) INTO same;
        EXECUTE format('CREATE %%s INDEX %%I ON %%I (normalize(%%I, NFC))',
                       CASE WHEN same THEN '' ELSE 'UNIQUE' END,
                       names[place][1] || '_one_per_name', names[place][1], names[place][2]);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    """Add the columns, and the indexes of names."""
    op.get_bind().exec_driver_sql(SCHEMA)
