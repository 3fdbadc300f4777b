"""Both schemas: from empty, again, at once, beside other tables, and what their constraints refuse."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from doceval_pipeline import migrations
from doceval_pipeline.batches.databases import database_errors, open_databases
from doceval_pipeline.batches.results.report_files import batch_of_report
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.lock_waits import name_holders
from doceval_pipeline.migrations.upgrade import (
    HEADS,
    MIGRATION_LOCK,
    Schema,
    require_current,
    revision,
    upgrade,
)
from doceval_pipeline.settings import Settings

SCHEMAS = pytest.mark.parametrize("schema", list(Schema))


@pytest.fixture
def empty(settings: Settings) -> Iterator[Engine]:
    """A database of its own, with nothing in it."""
    server = EmbeddedServer(settings.home)
    server.ensure()
    name = f"empty_{uuid4().hex}"
    server.ensure_database(name)
    engine = create_engine(server.url(name))
    yield engine
    engine.dispose()
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def two_roles(settings: Settings) -> Iterator[tuple[str, str]]:
    """Roles of the server, gone after the database that `empty` makes later."""
    server = EmbeddedServer(settings.home)
    server.ensure()
    names = (f"one_{uuid4().hex}", f"two_{uuid4().hex}")
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"CREATE ROLE {name}")
        yield names
        for name in names:
            connection.exec_driver_sql(f"DROP ROLE {name}")
    admin.dispose()


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


@SCHEMAS
def test_an_empty_database_gets_the_newest_schema_and_a_second_time_nothing(
    empty: Engine, schema: Schema
) -> None:
    assert revision(empty, schema) is None
    assert upgrade(empty, schema)
    assert revision(empty, schema) == HEADS[schema]
    assert not upgrade(empty, schema)


@SCHEMAS
def test_the_newest_revision_is_the_one_that_the_code_expects(schema: Schema) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent / schema.value))
    assert ScriptDirectory.from_config(config).get_current_head() == HEADS[schema]


@SCHEMAS
def test_every_revision_leads_to_the_newest(empty: Engine, schema: Schema) -> None:
    config = Config()
    location = Path(migrations.__file__).parent / schema.value
    config.set_main_option("script_location", str(location))
    revisions = [r.revision for r in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions[0] == HEADS[schema]
    for number in reversed(revisions):
        with empty.begin() as connection:
            config.attributes.update(connection=connection, version_table=schema.version_table)
            command.upgrade(config, number)
    assert not upgrade(empty, schema)


OLD_ROWS = """
    INSERT INTO docs (document_id, sha256, content, content_type, doc_type, file_size)
    SELECT 'sha256:' || repeat(n::text, 64), repeat(n::text, 64), 'AAAA', 'text/plain', 'txt', 3
    FROM generate_series(1, 3) AS n;
    INSERT INTO batch_configs (batch_id, config, sha256)
    SELECT n, '{"prompts": [{"id": 1, "text": "How clear?"}]}', repeat('0', 64)
    FROM generate_series(1, 2) AS n;
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details, status)
    SELECT batch, d.id, 1, 1, '{}', CASE WHEN d.id = 2 THEN 'N' ELSE 'QUEUED' END
    FROM generate_series(1, 2) AS batch, docs d;
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details, status)
    SELECT 3, d.id, 1, n, '{}', (ARRAY['S', 'P', 'PAUSED'])[n] FROM docs d, generate_series(1, 3) AS n;
"""


# Nobody checked what other programs published; where two members have one number, the question is not known.
ODD_CONFIGS = """
    INSERT INTO batch_configs (batch_id, config, sha256)
    SELECT :first + row_number() OVER (), config::jsonb, repeat('0', 64)
    FROM (VALUES ('[1]'), ('null'), ('{"prompts": 3, "connections": [{"id": 1}]}'),
        ('{"prompts": [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}, {"id": 2, "text": "c"}, {"id": "3"},
                       null, {"id": 1e30}, {"id": 1.5}, {"id": [4]}, {"id": 0}, {"text": "d"}],
           "connections": [{"id": 7}, {"id": 7}, null, "x", {"id": true}]}')) AS odd(config)
"""


def test_questions_are_noted_of_what_was_published_before_and_is_published_later(empty: Engine) -> None:
    at_revision(empty, Schema.KNOWLEDGE, "0011")
    for first in (0, 10):
        with empty.begin() as connection:
            connection.execute(text(ODD_CONFIGS), {"first": first})
        upgrade(empty, Schema.KNOWLEDGE)
    with empty.begin() as connection:
        noted = connection.execute(
            text(
                "SELECT prompt_id, connection_id, array_agg(batch_id ORDER BY 1) FROM batch_questions "
                "GROUP BY digest, 1, 2"
            )
        ).all()
    assert noted == [(2, 7, [4, 14])]


def test_rows_that_were_queued_before_there_were_leases_are_delivered_in_turn(empty: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent / Schema.KNOWLEDGE.value))
    with empty.begin() as connection:
        config.attributes.update(connection=connection, version_table=Schema.KNOWLEDGE.version_table)
        command.upgrade(config, "0002")
    with empty.begin() as connection:
        connection.exec_driver_sql(OLD_ROWS)
        before = connection.scalar(text("SELECT count(*) FROM llm_responses"))
    assert upgrade(empty, Schema.KNOWLEDGE)
    with empty.begin() as connection:
        claimed = [
            connection.execute(text("SELECT batch_id, prompt_text FROM claim_responses(1)")).one()
            for _ in range(6)
        ]
        assert connection.execute(text("SELECT * FROM claim_responses(1)")).all() == []
        assert connection.scalar(text("SELECT count(*) FROM llm_responses")) == before
    assert sorted(row.batch_id for row in claimed[:2]) == [1, 2]
    assert sorted(row.batch_id for row in claimed) == [1, 1, 1, 2, 2, 2]
    assert {row.prompt_text for row in claimed} == {"How clear?"}


COMPLETED_BEFORE = """
    INSERT INTO llm_providers VALUES (1, 'openai'); INSERT INTO models VALUES (1, 1, 'm');
    INSERT INTO connections (id, name, provider_id, model_id, prices)
    VALUES (1, 'priced', 1, 1, '{"input_per_million": 2}'), (2, 'unpriced', 1, 1, NULL);
    INSERT INTO prompts (name, prompt_text) VALUES ('p', 'How clear?');
    INSERT INTO batches (id, batch_number, batch_name, status, config_snapshot, config_sha256, expected_cells,
                         result_digest, reported_digest)
    SELECT n, n, name, status, '{}', 'x', 1, digest, digest
    FROM (VALUES (1, 'one', 'COMPLETED', '0123456789abcdef'), (3, 'three', 'STAGED', NULL),
                 (4, 'four', 'COMPLETED', 'by hand'), (1234567, 'seven', 'FAILED', '0123456789abcdef'))
        AS b(n, name, status, digest);
    INSERT INTO batch_connections SELECT b.id, c.id FROM batches b, connections c;
"""


# Owner, and who may call it: one line, so one function of this name.
FAIL_RESPONSE = """
    SELECT proowner::regrole::text, ARRAY(
        SELECT format('%s %s', grantee::regrole, is_grantable) FROM aclexplode(proacl) ORDER BY 1)
    FROM pg_proc WHERE proname = 'fail_response'
"""
# As `doceval init --roles` leaves it.
GIVE_AWAY = """
    DO $$ DECLARE f record; BEGIN
        FOR f IN SELECT oid::regprocedure AS signature FROM pg_proc
                 WHERE pronamespace = 'public'::regnamespace AND proname <> 'in_utc'
        LOOP EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', f.signature); END LOOP;
    END $$;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO {owner};
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {owner}
"""
NO_TOKEN = "'00000000-0000-0000-0000-000000000000'"
OLD_CALLS = (
    f"{NO_TOKEN}, 'reason'",
    f"{NO_TOKEN}, 'reason', true",
    f"{NO_TOKEN}, 'reason', retry => true",
    f"{NO_TOKEN}, 'reason', false, 'text', NULL, 1, 2, 3.5",
    f"token => {NO_TOKEN}, error_message => 'reason', output_tokens => 4",
)


def at_revision(empty: Engine, schema: Schema, number: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent / schema.value))
    with empty.begin() as connection:
        config.attributes.update(connection=connection, version_table=schema.version_table)
        command.upgrade(config, number)


def test_batches_that_were_completed_before_keep_the_present_prices_and_their_reports(empty: Engine) -> None:
    at_revision(empty, Schema.DOC_EVAL, "0008")
    with empty.begin() as connection:
        connection.exec_driver_sql(COMPLETED_BEFORE)
    assert upgrade(empty, Schema.DOC_EVAL)
    with empty.begin() as connection:
        found = connection.execute(
            text("SELECT id, prices_at_completion, report_file FROM batches ORDER BY id")
        ).all()
    prices = {"1": {"input_per_million": 2}}
    assert found == [
        (1, prices, "batch-000001-0123456789abcdef.html"),
        (3, None, None),
        (4, prices, None),
        (1234567, prices, "batch-1234567-0123456789abcdef.html"),
    ]
    assert all(name is None or batch_of_report(name) == number for number, _, name in found)


def test_batches_and_prompts_of_before_have_no_margin_threshold_or_weight(empty: Engine) -> None:
    at_revision(empty, Schema.DOC_EVAL, "0012")
    with empty.begin() as connection:
        connection.exec_driver_sql(COMPLETED_BEFORE)
    assert upgrade(empty, Schema.DOC_EVAL)
    with empty.begin() as connection:
        assert connection.scalars(text("SELECT DISTINCT margin FROM batches")).all() == [None]
        assert connection.execute(text("SELECT threshold, weight FROM prompts")).all() == [(None, None)]


@pytest.mark.parametrize(
    ("table", "column", "least", "above", "below"),
    [
        ("batches", "margin", "1e-300", "100", "0"),
        ("prompts", "threshold", "0", "100", "-1e-300"),
        ("prompts", "weight", "1e-300", "1000000", "0"),
    ],
)
def test_impossible_margins_thresholds_and_weights_are_refused(
    empty: Engine, table: str, column: str, least: str, above: str, below: str
) -> None:
    upgrade(empty, Schema.DOC_EVAL)
    with empty.begin() as connection:
        connection.exec_driver_sql(COMPLETED_BEFORE)
        update = f"UPDATE {table} SET {column} = CAST(:value AS double precision)"
        for value in (least, above, None):
            connection.execute(text(update), {"value": value})
        for value in (below, f"{above}.0001", "-1", "NaN", "Infinity", "-Infinity"):
            with pytest.raises(IntegrityError, match=f"{table}_{column}_check"), connection.begin_nested():
                connection.execute(text(update), {"value": value})


NAMES = [("batches", "batch_name"), ("connections", "name"), ("prompts", "name")]


def test_whoever_could_call_a_function_that_gets_new_parameters_still_can(
    two_roles: tuple[str, str], empty: Engine
) -> None:
    owner, worker = two_roles
    at_revision(empty, Schema.KNOWLEDGE, "0008")
    with empty.begin() as connection:
        for statement in (
            GIVE_AWAY.format(owner=owner),
            f"GRANT EXECUTE ON FUNCTION fail_response TO {worker} WITH GRANT OPTION",
        ):
            connection.execute(text(statement))
        before = connection.execute(text(FAIL_RESPONSE)).one()
    assert upgrade(empty, Schema.KNOWLEDGE)
    with empty.begin() as connection:
        assert connection.execute(text(FAIL_RESPONSE)).one() == before
        for arguments in OLD_CALLS:
            written = connection.scalar(text(f"SELECT message FROM fail_response({arguments})"))
            assert written == "nothing was changed: there is no such lease"


@pytest.mark.parametrize(("table", "column"), NAMES)
def test_a_name_that_reads_like_another_is_refused_unless_both_were_there_before(
    empty: Engine, table: str, column: str
) -> None:
    insert = {
        "batches": "INSERT INTO batches (id, batch_number, batch_name) "
        "SELECT count(*) + 9, count(*) + 9, {} FROM batches",
        "connections": "INSERT INTO connections (id, name, provider_id, model_id) "
        "SELECT count(*) + 9, {}, 1, 1 FROM connections",
        "prompts": "INSERT INTO prompts (name, prompt_text) VALUES ({}, 'q')",
    }[table]
    composed, decomposed = insert.format("U&'Pr\\00FCfung'"), insert.format("U&'Pru\\0308fung'")
    at_revision(empty, Schema.DOC_EVAL, "0008")
    with empty.begin() as connection:
        connection.exec_driver_sql(COMPLETED_BEFORE)
        connection.exec_driver_sql(composed)
    with empty.connect() as connection:
        connection.exec_driver_sql(decomposed)
        connection.commit()
    assert upgrade(empty, Schema.DOC_EVAL)
    with empty.begin() as connection:
        assert connection.scalar(text(f"SELECT count(*) FROM {table} WHERE {column} LIKE 'Pr%'")) == 2
        connection.execute(
            text(f"DELETE FROM {table} WHERE {column} = normalize({column}, NFC) AND {column} LIKE 'Pr%'")
        )
    for other, name in NAMES:
        with empty.connect() as connection:
            unique = connection.scalar(
                text("SELECT indisunique FROM pg_index WHERE indexrelid = CAST(:name AS regclass)"),
                {"name": f"{other}_one_per_name"},
            )
        assert unique == (other != table), name


def test_a_new_name_that_reads_like_another_is_refused_by_the_database(empty: Engine) -> None:
    upgrade(empty, Schema.DOC_EVAL)
    insert = text("INSERT INTO prompts (name, prompt_text) VALUES (:name, 'q')")
    with empty.connect() as connection:
        connection.execute(insert, {"name": "Prüfung"})
        with pytest.raises(IntegrityError, match="prompts_one_per_name"):
            connection.execute(insert, {"name": "Pru\u0308fung"})


def test_many_at_once_upgrade_once(empty: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: upgrade(empty, Schema.KNOWLEDGE), range(4)))
    assert any(done)
    assert {"docs", "llm_responses", "batch_configs"} <= tables(empty)


def test_both_schemas_fit_beside_other_tables_and_another_alembic(empty: Engine) -> None:
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        connection.execute(text("CREATE TABLE invoices (id int)"))
    upgrade(empty, Schema.DOC_EVAL)
    upgrade(empty, Schema.KNOWLEDGE)
    with empty.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "theirs"
    assert {"invoices", "batches", "docs"} <= tables(empty)


def test_an_unrelated_table_of_the_same_name_is_rejected_and_nothing_is_created(empty: Engine) -> None:
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE llm_responses (id int)"))
    with pytest.raises(DatabaseError, match=r'already has unrelated tables.*"llm_responses"'):
        upgrade(empty, Schema.KNOWLEDGE)
    assert tables(empty) == {"llm_responses"}


def test_a_schema_of_a_newer_version_is_refused(empty: Engine) -> None:
    upgrade(empty, Schema.DOC_EVAL)
    with empty.begin() as connection:
        connection.execute(text("UPDATE doceval_doc_eval_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="newer version of doceval_pipeline"):
        upgrade(empty, Schema.DOC_EVAL)


@pytest.mark.parametrize(
    ("revision", "fix"), [("0001", "run doceval init"), ("9999", "install the version that ran doceval init")]
)
def test_a_process_that_never_migrates_accepts_only_the_current_schema(
    empty: Engine, revision: str, fix: str
) -> None:
    with pytest.raises(DatabaseError, match=r"has no tables of doceval, .*: run doceval init"):
        require_current(empty, Schema.DOC_EVAL)
    assert tables(empty) == set()
    upgrade(empty, Schema.DOC_EVAL)
    require_current(empty, Schema.DOC_EVAL)
    with empty.begin() as connection:
        connection.execute(text("UPDATE doceval_doc_eval_version SET version_num = :to"), {"to": revision})
    with pytest.raises(DatabaseError, match=f"is at revision {revision} instead of .*: {fix}"):
        require_current(empty, Schema.DOC_EVAL)


DOC = "INSERT INTO docs (document_id, sha256, content, content_type, doc_type, file_size) VALUES "
ONE = f"('sha256:{'0' * 64}', '{'0' * 64}', 'AAAA', 'text/plain', 'txt', 3)"
ROW = "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details"


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (DOC + ONE.replace("'AAAA'", "'AAA'"), "docs_content_whole"),
        (DOC + ONE.replace(", 3)", ", 4)"), "docs_content_whole"),
        (DOC + ONE.replace("'sha256:0", "'sha256:1"), "docs_id_from_content"),
        (DOC + ONE + "," + ONE, "docs_document_id_key"),
        (DOC + ONE.replace("0" * 64, "0" * 63), "docs_sha256_check"),
        (ROW + ") VALUES (1, 4711, 1, 1, '{}')", "llm_responses_document_id_fkey"),
        (
            DOC + ONE + ";" + ROW + ", overall_score) SELECT 1, max(id), 1, 1, '{}', 100.1 FROM docs",
            "llm_responses_overall_score_check",
        ),
        (
            DOC + ONE + ";" + (ROW + ") SELECT 1, max(id), 1, 1, '{}' FROM docs;") * 2,
            "llm_responses_one_per_attempt",
        ),
        (
            DOC + ONE + ";" + ROW + ") SELECT 1, max(id), 1, 1, '{}' FROM docs; DELETE FROM docs",
            "llm_responses_document_id_fkey",
        ),
    ],
)
def test_knowledge_documents_refuses_what_must_not_be(
    settings: Settings, statement: str, constraint: str
) -> None:
    with open_databases(settings).knowledge.connect() as connection:
        with pytest.raises(IntegrityError) as caught:
            connection.exec_driver_sql(statement)
        assert caught.value.orig.diag.constraint_name == constraint  # type: ignore[union-attr] # psycopg2's
        connection.rollback()


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (
            "UPDATE batches SET config_snapshot = '{}', config_sha256 = 'x', expected_cells = 1, "
            "status = 'DONE'",
            "batches_status_known",
        ),
        ("UPDATE batches SET status = 'STAGING'", "batches_sealed_once_begun"),
        (
            "UPDATE batches SET config_snapshot = '{}', config_sha256 = 'x', status = 'STAGED'",
            "batches_staged_has_cells",
        ),
        (
            "INSERT INTO batches (batch_number, batch_name) SELECT batch_number, 'other' FROM batches",
            "batches_batch_number_key",
        ),
        (
            "INSERT INTO llm_providers VALUES (99, 'x'); INSERT INTO models VALUES (99, 99, 'm'); "
            "INSERT INTO connections (name, provider_id, model_id, api_key_env) "
            "VALUES ('c', 99, 99, 'sk-hunter2')",
            "connections_api_key_env_check",
        ),
    ],
)
def test_doc_eval_refuses_what_must_not_be(
    batch_of: Callable[..., object], settings: Settings, statement: str, constraint: str
) -> None:
    batch_of(documents=0)
    with open_databases(settings).doc_eval.connect() as connection:
        with pytest.raises(IntegrityError) as caught:
            connection.exec_driver_sql(statement)
        assert caught.value.orig.diag.constraint_name == constraint  # type: ignore[union-attr] # psycopg2's
        connection.rollback()


def test_contents_are_stored_without_compression(settings: Settings) -> None:
    with open_databases(settings).knowledge.connect() as connection:
        storage = connection.scalar(
            text(
                "SELECT attstorage FROM pg_attribute "
                "WHERE attrelid = 'docs'::regclass AND attname = 'content'"
            )
        )
    assert storage == "e"


LARGE_BEFORE = """
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details, status,
                               response_text)
    SELECT 4, 1, 1, 1, '{}', 'P', repeat('x', 16777217)
"""


def test_rows_that_were_larger_than_the_bound_stay_and_can_be_changed(empty: Engine) -> None:
    at_revision(empty, Schema.KNOWLEDGE, "0008")
    with empty.begin() as connection:
        connection.exec_driver_sql(OLD_ROWS + LARGE_BEFORE)
    assert upgrade(empty, Schema.KNOWLEDGE)
    with empty.begin() as connection:
        pinned = "SELECT proconfig FROM pg_proc WHERE proname = 'bound_response'"
        assert connection.scalar(text(pinned)) == ["search_path=public, pg_temp"]
        connection.exec_driver_sql("UPDATE llm_responses SET status = 'S', response_text = response_text")
        assert (
            connection.scalar(text("SELECT max(octet_length(response_text)) FROM llm_responses")) == 16777217
        )
        connection.exec_driver_sql("UPDATE llm_responses SET withdrawn_at = now()")
    with empty.connect() as connection, pytest.raises(DBAPIError, match="has 16777218 bytes, and at most"):
        connection.exec_driver_sql(
            "UPDATE llm_responses SET response_text = repeat('x', 16777218) WHERE batch_id = 2"
        )


def test_an_upgrade_does_not_wait_for_an_idle_reader_and_names_it(
    empty: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doceval_pipeline.migrations.upgrade.SECONDS_FOR_TABLES", 0.2)
    monkeypatch.setattr("doceval_pipeline.lock_waits.SECONDS_BETWEEN_QUERIES", 0.05)
    at_revision(empty, Schema.KNOWLEDGE, "0008")
    name_holders(empty)
    other = create_engine(empty.url, connect_args={"application_name": "idle-reader"})
    with other.connect() as reader:
        reader.execute(text("SELECT count(*) FROM llm_responses"))
        pid = reader.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(DatabaseError) as refused, database_errors():
            upgrade(empty, Schema.KNOWLEDGE)
    assert f"a lock is held by role postgres (pid {pid}, idle-reader, idle in transaction" in str(
        refused.value
    )
    assert revision(empty, Schema.KNOWLEDGE) == "0008"
    assert upgrade(empty, Schema.KNOWLEDGE)
    other.dispose()


@SCHEMAS
def test_a_strangers_advisory_lock_does_not_hold_up_an_upgrade(empty: Engine, schema: Schema) -> None:
    stranger = f"stranger_{uuid4().hex[:8]}"
    with empty.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {stranger} LOGIN")
    other = create_engine(empty.url.set(username=stranger))
    with other.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK.arguments})")
        with pytest.raises(
            DatabaseError, match=rf"cannot be locked: a lock is held by role {stranger} \(pid"
        ):
            upgrade(empty, schema)
    other.dispose()
    assert upgrade(empty, schema)
    with empty.begin() as connection:
        connection.exec_driver_sql(f"DROP ROLE {stranger}")
