"""Invariants of sealed configurations and of the installation: schemas, roles, API keys."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.databases import DOC_EVAL, KNOWLEDGE, Databases
from doceval_pipeline.batches.invariants.invariant import HAS_CELLS, Database, Invariant, Scope
from doceval_pipeline.doc_eval.definitions.schema import problem_of_connection
from doceval_pipeline.migrations.upgrade import HEADS, Schema

_OTHER_BYTES = text("""
    SELECT b.id AS batch_id, 'config_snapshot' AS subject, 'its sha256 differs from config_sha256' AS problem
    FROM batches b
    WHERE encode(sha256(convert_to(b.config_snapshot::text, 'UTF8')), 'hex') <> b.config_sha256
    ORDER BY b.id
""")
# As jsonb: equal values have equal text in both databases.
_SEALED = text(f"""
    SELECT b.id AS batch_id, b.config_sha256 AS sha256,
           encode(sha256(convert_to(b.config_snapshot::jsonb::text, 'UTF8')), 'hex') AS content
    FROM batches b WHERE {HAS_CELLS} ORDER BY b.id
""")
_OTHER_PUBLISHED = text("""
    SELECT h.batch_id, 'batch_configs' AS subject,
           CASE WHEN c.batch_id IS NULL THEN 'the configuration is missing' ELSE 'the configuration differs'
           END AS problem
    FROM unnest(CAST(:batch_id AS int[]), CAST(:sha256 AS text[]), CAST(:content AS text[]))
        AS h(batch_id, sha256, content)
    LEFT JOIN batch_configs c ON c.batch_id = h.batch_id
    WHERE c.sha256 IS DISTINCT FROM h.sha256
       OR encode(sha256(convert_to(c.config::text, 'UTF8')), 'hex') IS DISTINCT FROM h.content
    ORDER BY h.batch_id
""")
# Prompts and connections may be edited later; the batch itself may not.
_OTHER_CHOICE = text("""
    SELECT b.id AS batch_id, 'batches' AS subject,
           'name, description, metadata, patterns, margin or selection differ from the sealed configuration'
               AS problem
    FROM batches b
    WHERE b.config_snapshot IS NOT NULL
      AND jsonb_build_object(
          'batch', jsonb_build_object(
              'id', b.id, 'name', b.batch_name, 'description', b.description, 'metadata', b.meta_data,
              'include', to_jsonb(b.include_patterns), 'exclude', to_jsonb(b.exclude_patterns))
              || CASE WHEN b.margin IS NULL THEN '{}' ELSE jsonb_build_object('margin', b.margin) END,
          'folders', (SELECT jsonb_agg(jsonb_build_object('id', f.id, 'path', f.folder_path) ORDER BY f.id)
                      FROM batch_folders l JOIN folders f ON f.id = l.folder_id WHERE l.batch_id = b.id),
          'connections', (SELECT jsonb_agg(l.connection_id ORDER BY l.connection_id)
                          FROM batch_connections l WHERE l.batch_id = b.id),
          'prompts', (SELECT jsonb_agg(l.prompt_id ORDER BY l.prompt_id)
                      FROM batch_prompts l WHERE l.batch_id = b.id))
      <> jsonb_build_object(
          'batch', b.config_snapshot -> 'batch',
          'folders', b.config_snapshot -> 'folders',
          'connections', jsonb_path_query_array(b.config_snapshot::jsonb, '$.connections[*].id'),
          'prompts', jsonb_path_query_array(b.config_snapshot::jsonb, '$.prompts[*].id'))
    ORDER BY b.id
""")
_CONNECTIONS = text("""
    SELECT NULL AS batch_id, 'connection ' || c.name AS subject, NULL AS problem, c.name,
           p.provider_type AS provider, m.model_name AS model, c.base_url, c.port_no AS port, c.api_key_env,
           c.connection_config AS config
    FROM connections c
    JOIN llm_providers p ON p.id = c.provider_id
    JOIN models m ON m.id = c.model_id
    ORDER BY c.id
""")
# Batches share sealed connections: each distinct one is inspected once.
_PUBLISHED_CONNECTIONS = text("""
    SELECT min(c.batch_id) AS batch_id, format('batch_configs, connection %s', member ->> 'name') AS subject,
           NULL AS problem, member ->> 'name' AS name, member ->> 'provider_type' AS provider,
           member ->> 'model_name' AS model, member ->> 'base_url' AS base_url,
           (member ->> 'port_no')::int AS port, member ->> 'api_key_env' AS api_key_env,
           member -> 'connection_config' AS config
    FROM batch_configs c CROSS JOIN jsonb_array_elements(c.config -> 'connections') AS member
    GROUP BY member ORDER BY 1, 2
""")
_IS_SUPERUSER = text("""
    SELECT NULL AS batch_id, CAST(:variable AS text) AS subject,
           'its role is a superuser, which bypasses all grants' AS problem
    FROM pg_roles WHERE rolname = current_user AND rolsuper AND NOT :embedded
""")
_REVISION = """
    SELECT NULL AS batch_id, '{variable}' AS subject,
           format('its schema is at revision %s, but this version needs {head}',
                  coalesce(string_agg(version_num, ', '), 'none')) AS problem
    FROM {table} HAVING coalesce(string_agg(version_num, ', '), '') <> '{head}'
"""
_REMOVE_KEY = (
    "remove the key and revoke it, because it was readable; put it in a variable and name that in api_key_env"
)
_UPGRADE = "run doceval init and restart doceval up; a newer schema needs the version that created it"


def _other_revision(schema: Schema, variable: str) -> str:
    return _REVISION.format(variable=variable, head=HEADS[schema], table=schema.version_table)


def _objection(_: Databases, row: Mapping[str, Any], __: Scope) -> str | None:
    names = ("name", "provider", "model", "base_url", "port", "api_key_env", "config")
    return problem_of_connection({name: row[name] for name in names})


SEALED_BYTES_STAND = Invariant(
    name="sealed-bytes-stand",
    statement="every sealed configuration matches its sha256 byte for byte",
    runs_in=(Database.DOC_EVAL,),
    query=_OTHER_BYTES,
    fix="restore batches.config_snapshot from a backup of doc_eval",
)
SAME_CONFIGURATION = Invariant(
    name="same-configuration",
    statement="both databases hold the same sealed configuration",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_SEALED,
    query=_OTHER_PUBLISHED,
    fix="run doceval stage {batch_id} to write a missing one; a different one was written by another program",
)
CHOICE_IS_SEALED = Invariant(
    name="choice-is-sealed",
    statement="every batch still matches its sealed configuration",
    runs_in=(Database.DOC_EVAL,),
    query=_OTHER_CHOICE,
    fix="restore in doc_eval the values of config_snapshot; a changed selection needs a new batch",
)
NO_KEY_IN_CONNECTIONS = Invariant(
    name="no-key-in-connections",
    statement="every connection is free of API keys",
    runs_in=(Database.DOC_EVAL,),
    query=_CONNECTIONS,
    inspect=_objection,
    fix=_REMOVE_KEY,
)
NO_KEY_IS_PUBLISHED = Invariant(
    name="no-key-is-published",
    statement="every published configuration is free of API keys",
    runs_in=(Database.KNOWLEDGE,),
    query=_PUBLISHED_CONNECTIONS,
    inspect=_objection,
    fix=_REMOVE_KEY,
)
DOC_EVAL_IS_CURRENT = Invariant(
    name="doc-eval-is-current",
    statement="doc_eval has the schema of this version",
    runs_in=(Database.DOC_EVAL,),
    query=text(_other_revision(Schema.DOC_EVAL, DOC_EVAL[0])),
    fix=_UPGRADE,
)
KNOWLEDGE_IS_CURRENT = Invariant(
    name="knowledge-documents-is-current",
    statement="KnowledgeDocuments has the schema of this version",
    runs_in=(Database.KNOWLEDGE,),
    query=text(_other_revision(Schema.KNOWLEDGE, KNOWLEDGE[0])),
    fix=_UPGRADE,
)
NO_SUPERUSER = Invariant(
    name="no-superuser",
    statement="on your own servers, the pipeline connects without superuser rights",
    runs_in=(Database.DOC_EVAL, Database.KNOWLEDGE),
    query=_IS_SUPERUSER,
    fix="run doceval init --roles, then connect as a member of doceval_stager",
)
INVARIANTS = (
    SEALED_BYTES_STAND,
    SAME_CONFIGURATION,
    CHOICE_IS_SEALED,
    NO_KEY_IN_CONNECTIONS,
    NO_KEY_IS_PUBLISHED,
    DOC_EVAL_IS_CURRENT,
    KNOWLEDGE_IS_CURRENT,
    NO_SUPERUSER,
)
