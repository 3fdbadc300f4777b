"""Invariants of what was chosen and sealed, and of the installation itself: schemas, roles, no key."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.databases import DOC_EVAL, KNOWLEDGE, Databases
from doceval_pipeline.batches.invariants.invariant import HAS_CELLS, Invariant, Scope, Side
from doceval_pipeline.doc_eval.definitions.schema import problem_of_connection
from doceval_pipeline.migrations.upgrade import HEADS, Schema

_OTHER_BYTES = text("""
    SELECT b.id AS batch_id, 'config_snapshot' AS thing, 'its sha256 is not config_sha256' AS wrong
    FROM batches b
    WHERE encode(sha256(convert_to(b.config_snapshot::text, 'UTF8')), 'hex') <> b.config_sha256
    ORDER BY b.id
""")
# As jsonb, which is the same text for the same value in both databases.
_SEALED = text(f"""
    SELECT b.id AS batch_id, b.config_sha256 AS sha256,
           encode(sha256(convert_to(b.config_snapshot::jsonb::text, 'UTF8')), 'hex') AS content
    FROM batches b WHERE {HAS_CELLS} ORDER BY b.id
""")
_OTHER_PUBLISHED = text("""
    SELECT h.batch_id, 'batch_configs' AS thing,
           CASE WHEN c.batch_id IS NULL THEN 'it has none' ELSE 'it has another one' END AS wrong
    FROM unnest(CAST(:batch_id AS int[]), CAST(:sha256 AS text[]), CAST(:content AS text[]))
        AS h(batch_id, sha256, content)
    LEFT JOIN batch_configs c ON c.batch_id = h.batch_id
    WHERE c.sha256 IS DISTINCT FROM h.sha256
       OR encode(sha256(convert_to(c.config::text, 'UTF8')), 'hex') IS DISTINCT FROM h.content
    ORDER BY h.batch_id
""")
# Prompts and connections may be edited afterwards; what the batch itself says may not.
_OTHER_CHOICE = text("""
    SELECT b.id AS batch_id, 'batches' AS thing,
           'name, description, metadata, patterns or choice are not those that were sealed' AS wrong
    FROM batches b
    WHERE b.config_snapshot IS NOT NULL
      AND jsonb_build_object(
          'batch', jsonb_build_object(
              'id', b.id, 'name', b.batch_name, 'description', b.description, 'metadata', b.meta_data,
              'include', to_jsonb(b.include_patterns), 'exclude', to_jsonb(b.exclude_patterns)),
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
    SELECT NULL AS batch_id, 'connection ' || c.name AS thing, NULL AS wrong, c.name,
           p.provider_type AS provider, m.model_name AS model, c.base_url, c.port_no AS port, c.api_key_env,
           c.connection_config AS config
    FROM connections c
    JOIN llm_providers p ON p.id = c.provider_id
    JOIN models m ON m.id = c.model_id
    ORDER BY c.id
""")
# Many batches seal the same connection, which is judged once.
_PUBLISHED_CONNECTIONS = text("""
    SELECT min(c.batch_id) AS batch_id, format('batch_configs, connection %s', member ->> 'name') AS thing,
           NULL AS wrong, member ->> 'name' AS name, member ->> 'provider_type' AS provider,
           member ->> 'model_name' AS model, member ->> 'base_url' AS base_url,
           (member ->> 'port_no')::int AS port, member ->> 'api_key_env' AS api_key_env,
           member -> 'connection_config' AS config
    FROM batch_configs c CROSS JOIN jsonb_array_elements(c.config -> 'connections') AS member
    GROUP BY member ORDER BY 1, 2
""")
_IS_SUPERUSER = text("""
    SELECT NULL AS batch_id, CAST(:variable AS text) AS thing,
           'its role is a superuser, for whom no grant counts' AS wrong
    FROM pg_roles WHERE rolname = current_user AND rolsuper AND NOT :embedded
""")
_REVISION = """
    SELECT NULL AS batch_id, '{variable}' AS thing,
           format('its schema is at revision %s, and this version works with {head}',
                  coalesce(string_agg(version_num, ', '), 'none')) AS wrong
    FROM {table} HAVING coalesce(string_agg(version_num, ', '), '') <> '{head}'
"""
_NO_KEY_MEND = (
    "take the key out and revoke it, since it was readable; name the variable that holds it in api_key_env"
)
_SCHEMA_MEND = "doceval init, and restart doceval up; a newer schema needs the version that made it"


def _other_revision(schema: Schema, variable: str) -> str:
    return _REVISION.format(variable=variable, head=HEADS[schema], table=schema.version_table)


def _objection(_: Databases, row: Mapping[str, Any], __: Scope) -> str | None:
    names = ("name", "provider", "model", "base_url", "port", "api_key_env", "config")
    return problem_of_connection({name: row[name] for name in names})


SEALED_BYTES_STAND = Invariant(
    name="sealed-bytes-stand",
    must_hold="a sealed configuration is, byte for byte, what its sha256 says",
    runs_in=(Side.DOC_EVAL,),
    query=_OTHER_BYTES,
    mend="restore batches.config_snapshot from a backup of doc_eval",
)
SAME_CONFIGURATION = Invariant(
    name="same-configuration",
    must_hold="both databases hold the same sealed configuration",
    runs_in=(Side.KNOWLEDGE,),
    handed=_SEALED,
    query=_OTHER_PUBLISHED,
    mend="doceval stage {batch_id} writes a missing one; another one was written by another program",
)
CHOICE_IS_SEALED = Invariant(
    name="choice-is-sealed",
    must_hold="a batch still says what was sealed of it",
    runs_in=(Side.DOC_EVAL,),
    query=_OTHER_CHOICE,
    mend="put back in doc_eval what config_snapshot says; a changed choice is a batch of its own",
)
NO_KEY_IN_CONNECTIONS = Invariant(
    name="no-key-in-connections",
    must_hold="no connection holds a key",
    runs_in=(Side.DOC_EVAL,),
    query=_CONNECTIONS,
    judge=_objection,
    mend=_NO_KEY_MEND,
)
NO_KEY_IS_PUBLISHED = Invariant(
    name="no-key-is-published",
    must_hold="no published configuration holds a key",
    runs_in=(Side.KNOWLEDGE,),
    query=_PUBLISHED_CONNECTIONS,
    judge=_objection,
    mend=_NO_KEY_MEND,
)
DOC_EVAL_IS_CURRENT = Invariant(
    name="doc-eval-is-current",
    must_hold="doc_eval has the schema of this version",
    runs_in=(Side.DOC_EVAL,),
    query=text(_other_revision(Schema.DOC_EVAL, DOC_EVAL[0])),
    mend=_SCHEMA_MEND,
)
KNOWLEDGE_IS_CURRENT = Invariant(
    name="knowledge-documents-is-current",
    must_hold="KnowledgeDocuments has the schema of this version",
    runs_in=(Side.KNOWLEDGE,),
    query=text(_other_revision(Schema.KNOWLEDGE, KNOWLEDGE[0])),
    mend=_SCHEMA_MEND,
)
NO_SUPERUSER = Invariant(
    name="no-superuser",
    must_hold="the pipeline is no superuser of a server of your own",
    runs_in=(Side.DOC_EVAL, Side.KNOWLEDGE),
    query=_IS_SUPERUSER,
    mend="doceval init --roles, then connect as a member of doceval_stager",
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
