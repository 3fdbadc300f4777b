"""Inserts and updates connections and prompts, by name.

Existing rows are updated and only missing ones are inserted, instead of ON CONFLICT, so that applying a file
again does not use up numbers of the identity columns.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.definitions.existing import (
    ExistingDefinition,
    json_array,
    rows_to_insert,
    rows_to_update,
)
from doceval_pipeline.doc_eval.definitions.schema import ConnectionDefinition, PromptDefinition

_INSERT_PROVIDERS = text("""
    INSERT INTO llm_providers (provider_type)
    SELECT DISTINCT provider FROM jsonb_to_recordset(:rows) AS g(provider text)
    WHERE NOT EXISTS (SELECT 1 FROM llm_providers WHERE provider_type = g.provider)
""")
_INSERT_MODELS = text("""
    INSERT INTO models (provider_id, model_name)
    SELECT DISTINCT p.id, g.model
    FROM jsonb_to_recordset(:rows) AS g(provider text, model text)
    JOIN llm_providers p ON p.provider_type = g.provider
    WHERE NOT EXISTS (SELECT 1 FROM models m WHERE m.provider_id = p.id AND m.model_name = g.model)
""")
_GIVEN_CONNECTIONS = """
    SELECT g.name, p.id AS provider_id, m.id AS model_id, g.base_url, g.port, g.api_key_env, g.config,
           g.prices, g.place
    FROM ROWS FROM (jsonb_to_recordset(:rows) AS (
        name text, provider text, model text, base_url text, port int, api_key_env text, config jsonb,
        prices jsonb)) WITH ORDINALITY
        AS g(name, provider, model, base_url, port, api_key_env, config, prices, place)
    JOIN llm_providers p ON p.provider_type = g.provider
    JOIN models m ON m.provider_id = p.id AND m.model_name = g.model
"""
_UPDATE_CONNECTIONS = text(f"""
    UPDATE connections c
    SET provider_id = g.provider_id, model_id = g.model_id, base_url = g.base_url, port_no = g.port,
        api_key_env = g.api_key_env, connection_config = g.config, prices = g.prices, updated_at = now()
    FROM ({_GIVEN_CONNECTIONS}) g
    WHERE c.name = g.name
""")
_INSERT_CONNECTIONS = text(f"""
    INSERT INTO connections (name, provider_id, model_id, base_url, port_no, api_key_env, connection_config,
                             prices)
    SELECT g.name, g.provider_id, g.model_id, g.base_url, g.port, g.api_key_env, g.config, g.prices
    FROM ({_GIVEN_CONNECTIONS}) g ORDER BY g.place
""")
_UPDATE_PROMPTS = text("""
    UPDATE prompts p
    SET prompt_text = g.text, threshold = g.threshold, weight = g.weight, updated_at = now()
    FROM jsonb_to_recordset(:rows)
        AS g(name text, text text, threshold double precision, weight double precision)
    WHERE p.name = g.name
""")
_INSERT_PROMPTS = text("""
    INSERT INTO prompts (name, prompt_text, threshold, weight)
    SELECT g.name, g.text, g.threshold, g.weight
    FROM jsonb_to_recordset(:rows)
        AS g(name text, text text, threshold double precision, weight double precision)
""")


def write_connections(
    connection: Connection,
    items: Sequence[ConnectionDefinition],
    existing: Mapping[str, ExistingDefinition],
) -> None:
    """Insert new connections, with their providers and models, and update changed ones."""
    new, changed = rows_to_insert(items, existing), rows_to_update(items, existing)
    written = {"rows": json_array([*new, *changed])}
    connection.execute(_INSERT_PROVIDERS, written)
    connection.execute(_INSERT_MODELS, written)
    connection.execute(_UPDATE_CONNECTIONS, {"rows": json_array(changed)})
    connection.execute(_INSERT_CONNECTIONS, {"rows": json_array(new)})


def write_prompts(
    connection: Connection, items: Sequence[PromptDefinition], existing: Mapping[str, ExistingDefinition]
) -> None:
    """Insert new prompts and update changed ones."""
    connection.execute(_UPDATE_PROMPTS, {"rows": json_array(rows_to_update(items, existing))})
    connection.execute(_INSERT_PROMPTS, {"rows": json_array(rows_to_insert(items, existing))})
