"""Inserts and updates recurring evaluations, by name."""

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.definitions.existing import (
    ExistingDefinition,
    json_array,
    rows_to_insert,
    rows_to_update,
)
from doceval_pipeline.doc_eval.definitions.schema import RecurringDefinition
from doceval_pipeline.doc_eval.definitions.upsert_batches import insert_folders
from doceval_pipeline.names import normal, normal_in_sql


def names_listed_in_sql(key: str) -> str:
    """The names in a list of the recurring evaluation `r`, in SQL; none if the stored value is not a list."""
    listed = f"r.definition -> '{key}'"
    return f"jsonb_array_elements_text(CASE jsonb_typeof({listed}) WHEN 'array' THEN {listed} ELSE '[]' END)"


_COST_LIMITS = text(f"""
    SELECT r.name, r.definition ->> 'max_cost' AS max_cost,
           array_agg(c.name ORDER BY c.name COLLATE "C") FILTER (WHERE num_nonnulls(
               c.prices ->> 'input_per_million', c.prices ->> 'output_per_million') < 2) AS unpriced,
           array_agg(DISTINCT coalesce(c.prices ->> 'currency', 'USD')) AS currencies
    FROM recurring_evaluations r
    CROSS JOIN {names_listed_in_sql("connections")} AS n(name)
    JOIN connections c ON {normal_in_sql("c.name")} = {normal_in_sql("n.name")}
    WHERE {normal_in_sql("r.name")} = ANY(CAST(:names AS text[])) AND r.definition ->> 'max_cost' IS NOT NULL
    GROUP BY r.id ORDER BY r.name COLLATE "C"
""")
_INSERT_RECURRING = text("""
    INSERT INTO recurring_evaluations (name, definition)
    SELECT g.value ->> 'name', g.value - 'name'
    FROM jsonb_array_elements(:rows) WITH ORDINALITY AS g(value, place) ORDER BY g.place
""")
# A new schedule counts from now: its earlier times make no batches.
_UPDATE_RECURRING = text("""
    UPDATE recurring_evaluations r
    SET definition = g.value - 'name', updated_at = now(),
        watched_from = CASE WHEN (r.definition -> 'schedule', r.definition -> 'timezone')
                                 IS DISTINCT FROM (g.value -> 'schedule', g.value -> 'timezone')
                            THEN now() ELSE r.watched_from END
    FROM jsonb_array_elements(:rows) AS g(value)
    WHERE r.name = g.value ->> 'name'
""")


def write_recurring(
    connection: Connection,
    items: Sequence[RecurringDefinition],
    existing: Mapping[str, ExistingDefinition],
) -> None:
    """Insert new recurring evaluations and update changed ones."""
    new, changed = rows_to_insert(items, existing), rows_to_update(items, existing)
    connection.execute(_UPDATE_RECURRING, {"rows": json_array(changed)})
    connection.execute(_INSERT_RECURRING, {"rows": json_array(new)})
    insert_folders(connection, [*new, *changed])


def notes_on_limits(connection: Connection, items: Sequence[RecurringDefinition]) -> Iterator[str]:
    """Notes on each `max_cost` that cannot be checked, or that applies to several currencies."""
    names = [normal(item.name) for item in items]
    for row in connection.execute(_COST_LIMITS, {"names": names}):
        if row.unpriced:
            yield (
                f"{row.name}: input or output price is missing for {', '.join(row.unpriced)}, so max_cost "
                "cannot be checked and every batch with evaluations to process will be held: add prices"
            )
        elif len(row.currencies) > 1:
            currencies = " and ".join(row.currencies)
            applies = f"max_cost ({row.max_cost}) applies to each currency separately"
            yield f"{row.name}: its prices are in {currencies}; {applies}"
