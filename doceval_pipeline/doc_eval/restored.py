"""What an archive holds of doc_eval, on its way back into the tables.

Numbers that a sealed configuration names must be the same as before: those of the batch, its folders,
connections and prompts. The ids of files name nothing outside the database; one that is taken by now
is replaced.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.apply import lock_definitions
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.migrations.rows import insert_rows, reserve_ids
from doceval_pipeline.names import normal_in_sql

# What a batch selects: table, the column that people know a row by, and the column of its link table.
SELECTED = {
    "folders": ("folder_path", "folder_id"),
    "connections": ("name", "connection_id"),
    "prompts": ("name", "prompt_id"),
}

# Taken apart by PostgreSQL, so that each value stays the text that it is.
_MEMBER = text("SELECT (CAST(:content AS json) -> :name)::text")
_MEMBERS = text("SELECT value::text FROM json_array_elements(CAST(:content AS json) -> :name)")
_SAME_BATCH = text("""
    SELECT config_sha256 IS NOT DISTINCT FROM :config_sha256
           AND created_at = CAST(:created_at AS timestamptz)
    FROM batches WHERE id = :id
""")
_TAKEN = text(f"""
    SELECT id, batch_name FROM batches
    WHERE id = :id OR batch_number = :batch_number
       OR {normal_in_sql("batch_name")} = {normal_in_sql("CAST(:batch_name AS text)")}
    ORDER BY id LIMIT 1
""")
_SELECTION_TAKEN = """
    SELECT a.id, a.name, here.id, here.{name}
    FROM unnest(CAST(:ids AS int[]), CAST(:names AS text[])) AS a(id, name)
    JOIN {table} here ON (here.id = a.id) <> ({here} = {archived})
    ORDER BY a.id
"""
_ARCHIVED_CONNECTIONS = """
    json_to_recordset(CAST(:content AS json) -> :name) AS a(id int, provider_type text, model_name text)
"""
# Providers and models are known by their names alone.
_FOLLOW_MODELS = (
    text(f"""
        INSERT INTO llm_providers (provider_type)
        SELECT DISTINCT provider_type FROM {_ARCHIVED_CONNECTIONS}
        WHERE NOT EXISTS (SELECT 1 FROM llm_providers p WHERE p.provider_type = a.provider_type)
    """),
    text(f"""
        INSERT INTO models (provider_id, model_name)
        SELECT DISTINCT p.id, a.model_name
        FROM {_ARCHIVED_CONNECTIONS} JOIN llm_providers p USING (provider_type)
        WHERE NOT EXISTS (SELECT 1 FROM models m WHERE m.provider_id = p.id AND m.model_name = a.model_name)
    """),
    text(f"""
        UPDATE archived_connections c SET provider_id = p.id, model_id = m.id
        FROM {_ARCHIVED_CONNECTIONS}
        JOIN llm_providers p USING (provider_type)
        JOIN models m ON m.provider_id = p.id AND m.model_name = a.model_name
        WHERE a.id = c.id
    """),
)
# An archive of an earlier version has the prices of connections alone. The report is named once it is here.
_CALL_ARCHIVED = text("""
    UPDATE batches
    SET archived_at = CAST(:archived_at AS timestamptz), archive_file = :file, archive_sha256 = :sha256,
        report_file = NULL,
        prices_at_completion = CASE WHEN status IN ('COMPLETED', 'FAILED') THEN coalesce(
            prices_at_completion,
            (SELECT jsonb_object_agg(id, prices) FROM archived_connections WHERE prices IS NOT NULL),
            '{}') END
    WHERE id = :batch_id
""")
_FILES_TABLES = (
    text("CREATE TEMPORARY TABLE archived_documents (LIKE documents INCLUDING DEFAULTS) ON COMMIT DROP"),
    text("CREATE TEMPORARY TABLE archived_places (LIKE batch_documents INCLUDING DEFAULTS) ON COMMIT DROP"),
)
# As in `archived`: no walk may find a file while it comes or goes.
_NO_WALK_NOW = text("LOCK TABLE documents IN SHARE ROW EXCLUSIVE MODE")
_FIND_FILES = text("""
    CREATE TEMPORARY TABLE archived_file_ids ON COMMIT DROP AS
    SELECT a.id, same.id IS NULL AS missing,
           coalesce(same.id, CASE WHEN taken.id IS NULL THEN a.id
                                  ELSE nextval(pg_get_serial_sequence('documents', 'id')) END) AS here
    FROM archived_documents a
    LEFT JOIN documents same ON same.folder_id = a.folder_id AND sha256(same.raw_path) = sha256(a.raw_path)
    LEFT JOIN documents taken ON taken.id = a.id
""")
_PLACE_FILES = (
    text("DELETE FROM archived_documents a USING archived_file_ids f WHERE f.id = a.id AND NOT f.missing"),
    text("UPDATE archived_documents a SET id = f.here FROM archived_file_ids f WHERE f.id = a.id"),
    text("UPDATE archived_places SET document_id = f.here FROM archived_file_ids f WHERE f.id = document_id"),
)
_LARGEST_FILE = text("SELECT coalesce(max(id), 0) FROM archived_documents")
_FOLLOW_CONTENTS = text("""
    UPDATE archived_places p SET knowledge_document_id = moved.now
    FROM unnest(CAST(:before AS bigint[]), CAST(:now AS bigint[])) AS moved(before, now)
    WHERE p.knowledge_document_id = moved.before
""")
_PUT_BACK_FILES = (
    text("DELETE FROM batch_documents WHERE batch_id = :batch_id"),
    text("INSERT INTO documents SELECT * FROM archived_documents ORDER BY id"),
    text("INSERT INTO batch_documents SELECT * FROM archived_places ORDER BY document_id"),
)
_OPEN_AGAIN = text("""
    UPDATE batches SET archived_at = NULL, archive_file = NULL, archive_sha256 = NULL,
                       report_file = CASE WHEN reported_digest IS NOT NULL THEN :report END
    WHERE id = :batch_id
    RETURNING report_file
""")
# The same results, already reported, under the digest that they have now.
_FOLLOW_DIGEST = text("""
    UPDATE batches SET reported_digest = :digest, result_digest = :digest
    WHERE id = :batch_id AND reported_digest = result_digest
""")


def member(connection: Connection, content: str, name: str) -> bytes:
    """One row out of `batch.json`, exactly as it stands there."""
    return str(connection.execute(_MEMBER, {"content": content, "name": name}).scalar_one()).encode()


def is_same_batch(connection: Connection, batch: Mapping[str, Any]) -> bool | None:
    """Whether the batch of this number here is the archived one; None where there is none.

    Parameters
    ----------
    batch
        The archived row of `batches`.
    """
    same: bool | None = connection.scalar(_SAME_BATCH, dict(batch))
    return same


def register_batch(connection: Connection, content: str, file: str, when: str, sha256: str) -> None:
    """Let an installation know a batch that it does not have, as one that is archived.

    In the caller's transaction, with what the batch selects, all under the numbers that they had.

    Parameters
    ----------
    content
        `batch.json`.
    file, when, sha256
        The name of the archive, its time and its digest.

    Raises
    ------
    ArchiveError
        A number or a name is taken by something else here; nothing was written.
    """
    lock_definitions(connection)
    selected = json.loads(content)
    batch = selected["batch"]
    problems = [*_batch_taken(connection, batch), *_selection_taken(connection, selected)]
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ArchiveError(
            f"{file} does not fit in here: {problems[0]}{more}: restore it into an installation of its own, "
            "with DOCEVAL_HOME set to another folder"
        )
    for table in SELECTED:
        _put_back_selected(connection, content, table)
    reserve_ids(connection, "batches", batch["id"])
    insert_rows(connection, "batches", [member(connection, content, "batch")])
    connection.execute(
        _CALL_ARCHIVED, {"batch_id": batch["id"], "archived_at": when, "file": file, "sha256": sha256}
    )
    for table, (_, column) in SELECTED.items():
        link = f"INSERT INTO batch_{table} (batch_id, {column}) SELECT :batch_id, id FROM archived_{table}"
        connection.execute(text(link), {"batch_id": batch["id"]})


def put_back_observations(
    connection: Connection, progress: Iterable[bytes], history: Iterable[bytes]
) -> None:
    """Put `batch_progress` and `connection_history` back, for a batch that has just been registered."""
    insert_rows(connection, "batch_progress", progress)
    insert_rows(connection, "connection_history", history)


def put_back_files(
    connection: Connection,
    batch_id: int,
    documents: Iterable[bytes],
    places: Iterable[bytes],
    moved: Mapping[int, int],
) -> None:
    """Put the files of a batch back, in the caller's transaction, instead of any that are there.

    Parameters
    ----------
    documents, places
        The rows of `documents` and of `batch_documents`, as JSON.
    moved
        The `docs.id` of contents that have another one than in the archive, by the old one.
    """
    connection.execute(_NO_WALK_NOW)
    for statement in _FILES_TABLES:
        connection.execute(statement)
    insert_rows(connection, "archived_documents", documents)
    insert_rows(connection, "archived_places", places)
    reserve_ids(connection, "documents", connection.execute(_LARGEST_FILE).scalar_one())
    connection.execute(_FIND_FILES)
    for statement in _PLACE_FILES:
        connection.execute(statement)
    connection.execute(_FOLLOW_CONTENTS, {"before": list(moved), "now": list(moved.values())})
    for statement in _PUT_BACK_FILES:
        connection.execute(statement, {"batch_id": batch_id})


def open_again(connection: Connection, batch_id: int, new_digest: str | None, report: str) -> str | None:
    """Say that a batch's rows are here again.

    Parameters
    ----------
    new_digest
        Of its results, where it is another one than before.
    report
        The name of the file of the archived report.

    Returns
    -------
    str | None
        That name, where the report is the batch's newest; None where the batch has no report.
    """
    if new_digest is not None:
        connection.execute(_FOLLOW_DIGEST, {"batch_id": batch_id, "digest": new_digest})
    kept: str | None = connection.scalar(_OPEN_AGAIN, {"batch_id": batch_id, "report": report})
    return kept


def _batch_taken(connection: Connection, batch: Mapping[str, Any]) -> Iterator[str]:
    taken = connection.execute(_TAKEN, dict(batch)).first()
    if taken is not None:
        yield _taken("batch", batch["id"], batch["batch_name"], *taken)


def _selection_taken(connection: Connection, selected: Mapping[str, Any]) -> Iterator[str]:
    for table, (name, _) in SELECTED.items():
        known = {
            "ids": [row["id"] for row in selected[table]],
            "names": [row[name] for row in selected[table]],
        }
        # The bytes of paths are as they are; of names, those that people read alike are the same.
        compared = (f"here.{name}", "a.name")
        here, archived = compared if table == "folders" else map(normal_in_sql, compared)
        statement = _SELECTION_TAKEN.format(table=table, name=name, here=here, archived=archived)
        found = connection.execute(text(statement), known)
        for archived_id, archived_name, here_id, here_name in found:
            yield _taken(table.removesuffix("s"), archived_id, archived_name, here_id, here_name)


def _taken(kind: str, archived_id: int, archived_name: str, here_id: int, here_name: str) -> str:
    if archived_id == here_id:
        return f"{kind} number {archived_id} is taken by another one here, {here_name!r}"
    return f"{kind} {archived_name!r} has number {here_id} here and {archived_id} in the archive"


def _put_back_selected(connection: Connection, content: str, table: str) -> None:
    parameters = {"content": content, "name": table}
    rows = [str(row).encode() for row in connection.scalars(_MEMBERS, parameters)]
    connection.execute(
        text(f"CREATE TEMPORARY TABLE archived_{table} (LIKE {table} INCLUDING DEFAULTS) ON COMMIT DROP")
    )
    insert_rows(connection, f"archived_{table}", rows)
    if table == "connections":
        for statement in _FOLLOW_MODELS:
            connection.execute(statement, parameters)
    largest = connection.execute(text(f"SELECT coalesce(max(id), 0) FROM archived_{table}")).scalar_one()
    reserve_ids(connection, table, largest)
    connection.execute(
        text(f"""
            INSERT INTO {table} SELECT * FROM archived_{table} a
            WHERE NOT EXISTS (SELECT 1 FROM {table} here WHERE here.id = a.id)
        """)
    )
