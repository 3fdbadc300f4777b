"""The margin of a batch, and the threshold and weight of a prompt."""

from alembic import op

revision = "0013"
down_revision = "0012"

# NaN is greater than every other number, so the upper bounds reject it as well as infinity.
SCHEMA = """
ALTER TABLE batches ADD COLUMN margin double precision CHECK (margin > 0 AND margin <= 100);
COMMENT ON COLUMN batches.margin IS
    'A model whose mean score is shown to be lower by less than this, in points, is no worse. Sealed. '
    'NULL: no such comparison.';

ALTER TABLE prompts
    ADD COLUMN threshold double precision CHECK (threshold >= 0 AND threshold <= 100),
    ADD COLUMN weight double precision CHECK (weight > 0 AND weight <= 1000000);
COMMENT ON COLUMN prompts.threshold IS
    'Documents with a lower score are listed in reports. Never sealed. NULL: none are listed.';
COMMENT ON COLUMN prompts.weight IS
    'Share in the overall ranking, relative to other prompts. Never sealed. NULL: not part of it.';
"""


def upgrade() -> None:
    """Add the columns."""
    op.get_bind().exec_driver_sql(SCHEMA)
