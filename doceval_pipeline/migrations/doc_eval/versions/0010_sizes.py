"""Limits the size of every text, so that all stored texts can be read again."""

from alembic import op

revision = "0010"
down_revision = "0009"

# For JSON and arrays, the size in memory, which is about that of their text. A table with larger rows gets no
# constraint, because it would reject every later change of these rows.
SCHEMA = r"""
DO $$
DECLARE
    of_table record;
BEGIN
    FOR of_table IN
        SELECT c.relname, string_agg(
            format(CASE WHEN a.atttypid = 'text'::regtype THEN 'octet_length(%I) <= 16777216'
                        ELSE 'pg_column_size(%I) <= 16777216' END, a.attname),
            ' AND ' ORDER BY a.attnum) AS bounds
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
          AND c.relname IN (
              'llm_providers', 'models', 'connections', 'prompts', 'folders', 'batches', 'documents',
              'batch_documents', 'webhook_deliveries', 'run_requests', 'live_runs', 'lost_runs')
          AND a.attnum > 0 AND NOT a.attisdropped
          -- A sealed configuration is as large as all that it is made of.
          AND a.attname <> 'config_snapshot'
          AND a.atttypid IN ('text'::regtype, 'text[]'::regtype, 'json'::regtype, 'jsonb'::regtype)
        GROUP BY c.relname
    LOOP
        BEGIN
            EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (%s)',
                           of_table.relname, of_table.relname || '_sizes', of_table.bounds);
        EXCEPTION WHEN check_violation THEN
            RAISE NOTICE '% has rows that are larger than what is accepted from now on: they stay',
                of_table.relname;
        END;
    END LOOP;
END $$;
"""


def upgrade() -> None:
    """Add the constraints."""
    op.get_bind().exec_driver_sql(SCHEMA, execution_options={"no_parameters": True})
