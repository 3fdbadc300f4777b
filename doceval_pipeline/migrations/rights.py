"""Asks what a role may do before it begins, so that a refusal half way leaves nothing half done."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.errors import DatabaseError

# A right to some column is enough to lock rows, and all there is where the columns are granted one by one.
_MISSING = text("""
    SELECT format('%s on %s', wanted, name)
    FROM unnest(CAST(:tables AS text[]), CAST(:rights AS text[])) AS asked(name, given),
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
    """Refuse what the connection's role may not do to the end.

    Parameters
    ----------
    what
        What is refused, as a noun.
    tables
        Each with the rights to it, such as `SELECT, INSERT`; UPDATE means some column.
    numbered
        Tables whose ids are given and reserved by hand.
    functions
        Those that are called.

    Raises
    ------
    DatabaseError
        Names each right that is missing, and how to get it.
    """
    asked = list(tables)
    missing = connection.scalars(
        _MISSING,
        {
            "tables": [table for table, _ in asked],
            "rights": [rights for _, rights in asked],
            "numbered": list(numbered),
            "functions": [*functions, *(["advance_numbers"] if numbered else [])],
        },
    ).all()
    if missing:
        role = connection.execute(text("SELECT current_user")).scalar_one()
        raise DatabaseError(
            f"{what} is not allowed to {role}, and nothing was changed: it lacks {', '.join(missing)} in "
            f"{connection.engine.url.database}: doceval init --roles as the owner grants it to doceval_stager"
        )
