"""Folders on object storage, and the versions of the objects in them."""

from alembic import op

revision = "0015"
down_revision = "0014"

SCHEMA = """
ALTER TABLE folders
    DROP CONSTRAINT folders_folder_path_check,
    ADD CONSTRAINT folders_folder_path_check
        CHECK (starts_with(folder_path, '/') OR folder_path ~ '^(s3|gs|az)://[^/?#@]+(/[^?#]+)?$');
COMMENT ON TABLE folders IS
    'Folders of documents, by absolute path or URL; one may be in any number of batches.';

ALTER TABLE batch_documents
    ADD COLUMN etag text CHECK (octet_length(etag) <= 1024),
    ADD COLUMN modified_ns bigint;
COMMENT ON COLUMN batch_documents.etag IS
    'Version of the object on object storage that is evaluated. NULL for a file on disk.';
COMMENT ON COLUMN batch_documents.modified_ns IS
    'Modification time of that version, in nanoseconds since 1970. NULL for a file on disk.';

ALTER TABLE recurring_files ADD COLUMN etag text CHECK (octet_length(etag) <= 1024);
COMMENT ON COLUMN recurring_files.etag IS
    'Version of the object on object storage. NULL for a file on disk.';
"""


def upgrade() -> None:
    """Accept URLs of folders, and add the columns."""
    op.get_bind().exec_driver_sql(SCHEMA)
