"""Checks the rights of a role before an operation, so that it cannot fail halfway."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.errors import DatabaseError

# A right on one column is enough to lock rows, and rights may be granted column by column.
_MISSING = text("""
    SELECT format('%s on %s', wanted, name)
    FROM unnest(CAST(:tables AS text[]), CAST(:rights AS text[])) AS required(name, given),
         unnest(string_to_array(given, ', ')) AS wanted
    WHERE NOT CASE wanted WHEN 'DELETE' THEN has_table_privilege(name, wanted)
                          ELSE has_any_column_privilege(name, wanted) END
    UNION ALL
    SELECT format('USAGE on the sequence of %s', name)
    FROM unnest(CAST(:numbered AS text[])) AS name
    WHERE NOT has_sequence_privilege(pg_get_serial_sequence(name, 'id'), 'USAGE')
    UNION ALL
    SELECT format('EXECUTE on %s', oid::regprocedure) FROM pg_proc
    WHERE proname = ANY(:functions) AND pronamespace = current_schema()::regnamespace
      AND NOT has_function_privilege(oid, 'EXECUTE')
    UNION ALL
    SELECT 'TEMPORARY on the database' WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
    ORDER BY 1
""")


def require_rights(
    connection: Connection,
    what: str,
    tables: Iterable[tuple[str, str]],
    numbered: Sequence[str] = (),
    functions: Sequence[str] = (),
) -> None:
    """Raise if the role of the connection lacks any of the given rights.

    Parameters
    ----------
    what
        The operation, as a noun, for the error message.
    tables
        Tables with their rights, such as `SELECT, INSERT`; UPDATE means any column.
    numbered
        Tables whose ids are assigned and reserved explicitly.
    functions
        Functions that are called.

    Raises
    ------
    DatabaseError
        Names the missing rights and how to grant them.
    """
    required = list(tables)
    missing = connection.scalars(
        _MISSING,
        {
            "tables": [table for table, _ in required],
            "rights": [rights for _, rights in required],
            "numbered": list(numbered),
            "functions": [*functions, *(["advance_numbers"] if numbered else [])],
        },
    ).all()
    if missing:
        role = connection.execute(text("SELECT current_user")).scalar_one()
        lacking = f"{', '.join(missing)} in {connection.engine.url.database}"
        raise DatabaseError(
            f"role {role} lacks rights for {what} ({lacking}); nothing was changed: "
            "run doceval init --roles as the owner to grant them to doceval_stager"
        )
