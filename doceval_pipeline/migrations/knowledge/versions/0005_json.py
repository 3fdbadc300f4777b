"""Tests whether a text is JSON, which PostgreSQL can do itself only since version 16."""

from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = """
CREATE FUNCTION is_json(given text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    PERFORM given::json;
    RETURN true;
EXCEPTION
    -- The second is what is nested too deeply to be read.
    WHEN data_exception OR statement_too_complex THEN
        RETURN false;
END $$;
COMMENT ON FUNCTION is_json IS 'Whether PostgreSQL can read a text as JSON; of NULL it is NULL.';
REVOKE ALL ON FUNCTION is_json FROM PUBLIC;
"""


def upgrade() -> None:
    """Add the function."""
    op.get_bind().exec_driver_sql(SCHEMA)
