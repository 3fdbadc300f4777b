"""Each role connects and tries: what it is for works, and everything else is refused by the database."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Connection, create_engine, inspect, make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.planning import plan_occurrence
from doceval_pipeline.batches.staging.recurring import make_occurrence
from doceval_pipeline.batches.staging.reprocessing import Mode, cancel, pause, reprocess, resume
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.recurring.stored import delete_recurring, pause_recurring, resume_recurring
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.migrations.roles import grant_roles
from doceval_pipeline.migrations.upgrade import Schema, upgrade
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.batches.archiving.archives import quiet, restore_file
from doceval_pipeline_tests.batches.staging.test_recurring import NIGHT, define, record_of
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old
from doceval_pipeline_tests.knowledge.test_guard import RESULT_COLUMNS
from doceval_pipeline_tests.migrations.conftest import LOGINS, Urls

REFUSED = "permission denied|must be owner"


def refused(connection: Connection, statement: str) -> bool:
    with pytest.raises(ProgrammingError) as caught:
        connection.exec_driver_sql(statement)
    return re.search(REFUSED, str(caught.value)) is not None


def test_the_stager_can_do_all_that_the_pipeline_does(staged: Sample) -> None:
    databases = staged.databases
    pause(databases, staged.id)
    resume(databases, staged.id)
    write_old(staged.folder / "d", "d")
    reprocess(databases, staged.id, Mode.failed, lambda *_: None, rescan=True)
    (staged.folder / "a").unlink()
    reprocess(databases, staged.id, Mode.failed, lambda *_: None, rescan=True)
    cancel(databases, staged.id)
    poll(databases)
    assert staged.status() == "FAILED"
    assert write_report(databases, staged.id).path.exists()
    assert list(audit_installation(databases, lambda *_: None, every_document=True)) == []


def test_the_stager_makes_occurrences_that_reuse_results_and_archives_them(
    staged: Sample, as_role: Callable[..., Connection]
) -> None:
    databases, worker = staged.databases, as_role("doceval_worker")

    def occurrence(night: int, reused: int) -> Sample:
        made = make_occurrence(databases, record_of(databases), NIGHT + timedelta(days=night))
        assert made.batch_id is not None
        batch = Sample(databases, made.batch_id, "", staged.folder)
        batch.stage()
        for row in worker.exec_driver_sql("SELECT * FROM claim_responses(99)").all():
            if row.batch_id == batch.id:
                worker.execute(text("SELECT complete_response(:t, 50)"), {"t": row.token})
        poll(databases)
        counts = "SELECT count(*), count(reused_from) FROM llm_responses WHERE batch_id = :id"
        assert (batch.status(), batch.knowledge(counts)) == ("COMPLETED", [(3, reused)])
        return batch

    keys = {"scope": "all", "skip_if_nothing_new": False, "max_documents": 9, "connections": ["model"]}
    define(databases, staged.folder, **keys)
    first, second = occurrence(0, 0), occurrence(1, 3)
    archived = archive(databases, first.id, quiet, quiet)
    answers = "SELECT DISTINCT batch_id FROM llm_responses WHERE is_answer AND batch_id >= :id"
    assert first.knowledge(answers) == [(second.id,)]
    restore_file(databases, archived.path)
    assert sorted(first.knowledge(answers)) == [(first.id,), (second.id,)]
    with databases.doc_eval.begin() as connection:
        record = record_of(databases)
        pause_recurring(connection, record.id)
        resume_recurring(connection, record.id)
        delete_recurring(connection, record.id)
    assert list(audit_installation(databases, quiet, every_document=True)) == []


def test_the_stager_corrects_types_of_documents_and_stages_on_where_it_may_not(
    staged: Sample, urls: Urls
) -> None:
    owner = create_engine(urls("doceval_owner")[Schema.KNOWLEDGE])
    of_a = "WHERE sha256 = encode(sha256('a'), 'hex')"
    for grant, expected in (("REVOKE {} FROM", "image/png"), ("GRANT {} TO", "text/plain")):
        with owner.begin() as connection:
            update = grant.format("UPDATE (content_type) ON docs")
            connection.exec_driver_sql(f"UPDATE docs SET content_type = 'image/png' {of_a}")
            connection.exec_driver_sql(f"{update} doceval_stager")
        located = evaluation_of([{"name": f"batch {uuid4().hex}", "folders": [str(staged.folder)]}])
        (number,) = apply_evaluation(staged.databases.doc_eval, located).numbers.values()
        Sample(staged.databases, number, "", staged.folder).stage()
        assert staged.knowledge(f"SELECT content_type FROM docs {of_a}") == [(expected,)]
    owner.dispose()


def test_the_stager_writes_no_result_and_no_lease(staged: Sample, as_role: Callable[..., Connection]) -> None:
    stager = as_role("doceval_stager")
    for column in ("overall_score", "response_text", "lease_expires_at", "lease_token", "reused_from"):
        assert refused(stager, f"UPDATE llm_responses SET {column} = NULL")
    for statement in (
        "SELECT * FROM claim_responses(1)",
        "UPDATE docs SET content = ''",
        "INSERT INTO batch_questions VALUES (1, 1, 1, repeat('0', 64))",
        "UPDATE batch_configs SET config = '{}'",
        "DROP TABLE llm_responses",
        "SELECT setval('llm_responses_queue_clock', 1)",
    ):
        assert refused(stager, statement), statement


def test_a_worker_has_the_functions_and_the_documents(
    staged: Sample, as_role: Callable[..., Connection]
) -> None:
    worker = as_role("doceval_worker")
    row = worker.exec_driver_sql("SELECT * FROM claim_responses(1)").one()
    assert worker.execute(text("SELECT content FROM docs WHERE id = :row"), {"row": row.document_id}).scalar()
    assert worker.execute(text("SELECT changed FROM heartbeat_response(:t)"), {"t": row.token}).scalar()
    assert worker.execute(text("SELECT changed FROM complete_response(:t)"), {"t": row.token}).scalar()
    (other,) = worker.exec_driver_sql("SELECT token FROM claim_responses(1)").one()
    assert worker.execute(text("SELECT changed FROM fail_response(:t, 'no')"), {"t": other}).scalar()
    for statement in (
        "SELECT lease_token FROM llm_responses",
        "UPDATE llm_responses SET status = 'S'",
        "DELETE FROM llm_responses",
        "INSERT INTO docs DEFAULT VALUES",
        "SELECT tidy_queue()",
        "SELECT return_responses('{1}', 0, '')",
        "SELECT deliver_responses(1, '1 h', '')",
        "SELECT write_result(NULL, 'S', NULL, 1, NULL, NULL, NULL, NULL, NULL)",
        "SELECT * FROM current_llm_responses",
        "SELECT * FROM batch_questions",
        "SELECT questions_of('{}')",
        "SELECT question_digest('{}', '{}')",
        "CREATE TABLE llm_responses_mine ()",
        "CREATE FUNCTION lower(uuid) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    ):
        assert refused(worker, statement), statement


def test_a_worker_cannot_have_the_functions_find_tables_of_its_own(
    staged: Sample, as_role: Callable[..., Connection]
) -> None:
    worker = as_role("doceval_worker")
    worker.exec_driver_sql("CREATE TEMPORARY TABLE llm_responses (id int)")
    worker.exec_driver_sql("SET search_path = pg_temp, public")
    assert worker.exec_driver_sql("SELECT batch_id FROM claim_responses(1)").scalar() is not None


def test_a_plain_worker_writes_results_and_gets_around_no_lease(
    staged: Sample, as_role: Callable[..., Connection]
) -> None:
    plain, worker = as_role("doceval_plain_worker"), as_role("doceval_worker")
    leased = worker.exec_driver_sql("SELECT id, token FROM claim_responses(1)").one()
    claimed = plain.exec_driver_sql(
        "UPDATE llm_responses SET status = 'P', task_id = 't' WHERE id = ANY (ARRAY (SELECT id "
        "FROM llm_responses WHERE status = 'QUEUED' ORDER BY batch_id, id LIMIT 1 "
        "FOR NO KEY UPDATE SKIP LOCKED)) RETURNING id, document_id, connection_details"
    ).one()
    assert plain.exec_driver_sql(f"SELECT content FROM docs WHERE id = {claimed.document_id}").scalar()
    assignments = ", ".join(f"{column} = {value}" for column, value in RESULT_COLUMNS.items())
    plain.exec_driver_sql(f"UPDATE llm_responses SET {assignments}")
    states = dict(plain.exec_driver_sql("SELECT id, status FROM llm_responses").all())  # type: ignore[arg-type] # rows are pairs
    assert states[claimed.id] == "S"
    assert states[leased.id] == "P"
    plain.exec_driver_sql(f"UPDATE llm_responses SET status = 'F' WHERE id = {claimed.id}")
    assert dict(plain.exec_driver_sql("SELECT id, status FROM llm_responses").all()) == states  # type: ignore[arg-type] # as above
    for column in (
        *("lease_expires_at", "lease_token", "deliveries", "queue_position", "withdrawn_at"),
        *("reused_from", "reused_batch_id", "is_answer"),
    ):
        assert refused(plain, f"UPDATE llm_responses SET {column} = NULL")
    for statement in (
        f"SELECT complete_response('{leased.token}')",
        f"SELECT heartbeat_response('{leased.token}')",
        "DELETE FROM llm_responses",
        "UPDATE llm_responses SET batch_id = 1",
        "INSERT INTO llm_responses (batch_id) VALUES (1)",
        "TRUNCATE llm_responses",
        "UPDATE docs SET content = ''",
        "SELECT * FROM batch_questions",
        "ALTER TABLE llm_responses DISABLE TRIGGER guard_response",
        "SET session_replication_role = replica",
    ):
        with pytest.raises(ProgrammingError, match=REFUSED):
            plain.exec_driver_sql(statement)


def test_a_reader_reads_both_databases_and_writes_in_none(
    staged: Sample, as_role: Callable[..., Connection]
) -> None:
    for schema in Schema:
        reader = as_role("doceval_reader", schema)
        tables = inspect(reader).get_table_names()
        assert len(tables) >= 4
        for table in tables:
            reader.exec_driver_sql(f'SELECT count(*) FROM "{table}"')
            for statement in ("DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES", "TRUNCATE {}"):
                assert refused(reader, statement.format(f'"{table}"'))
    reader = as_role("doceval_reader")
    for statement in (
        "SELECT claim_responses(1)",
        "UPDATE llm_responses SET status = 'S'",
        "SELECT tidy_queue()",
    ):
        assert refused(reader, statement)


def test_a_reader_can_plan_and_audit_and_finds_what_is_wrong(staged: Sample, urls: Urls) -> None:
    reader = urls("doceval_reader")
    settings = replace(
        staged.databases.settings,
        doc_eval_url=reader[Schema.DOC_EVAL],
        knowledge_documents_url=reader[Schema.KNOWLEDGE],
    )
    databases = open_databases(settings)
    define(staged.databases, staged.folder, connections=["model"])
    assert plan_occurrence(databases, record_of(databases), quiet).files.new == 3
    assert list(audit_installation(databases, lambda *_: None, every_document=True)) == []
    staged.doc_eval(
        "UPDATE batches SET expected_cells = expected_cells + 1, description = 'other' WHERE id = :id"
    )
    found = {v.invariant for v in audit_installation(databases, lambda *_: None, every_document=True)}
    staged.doc_eval("UPDATE batches SET expected_cells = expected_cells - 1, description = '' WHERE id = :id")
    assert found == {
        "every batch expects documents x connections x prompts evaluations",
        "every batch still matches its sealed configuration",
    }


PROCESSORS = ["doceval_worker", "doceval_plain_worker"]


@pytest.mark.parametrize("role", PROCESSORS)
def test_processors_cannot_enter_doc_eval(urls: Urls, role: str) -> None:
    engine = create_engine(urls(role)[Schema.DOC_EVAL])
    with pytest.raises(OperationalError, match="CONNECT privilege"):
        engine.connect()
    engine.dispose()


def test_a_doc_eval_that_others_use_too_stays_open_to_them_and_shows_nothing(
    urls: Urls, settings: Settings
) -> None:
    server, name = EmbeddedServer(settings.home), f"shared_{uuid4().hex[:8]}"
    server.ensure_database(name)
    engine = create_engine(server.url(name), poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE others ()")
    upgrade(engine, Schema.DOC_EVAL)
    grant_roles(engine, Schema.DOC_EVAL)
    for role in PROCESSORS:
        url = server.url(name).replace("postgres@", f"{LOGINS[role]}@")
        with create_engine(url, poolclass=NullPool).connect() as connection:
            for table in ("batches", "connections", "documents"):
                assert refused(connection, f"SELECT * FROM {table}")
                connection.rollback()
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")


def test_the_owner_can_migrate_and_owns_everything(urls: Urls, as_role: Callable[..., Connection]) -> None:
    owned = """
        SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind <> 'i'
        AND pg_get_userbyid(c.relowner) <> 'doceval_owner'
        UNION ALL
        SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
        AND pg_get_userbyid(p.proowner) <> 'doceval_owner'
    """
    for schema in Schema:
        owner = as_role("doceval_owner", schema)
        assert owner.exec_driver_sql(owned).all() == []
    owner = as_role("doceval_owner")
    owner.exec_driver_sql("ALTER TABLE docs ADD COLUMN later text")
    owner.exec_driver_sql("ALTER TABLE docs DROP COLUMN later")


def test_no_function_is_open_to_everybody_but_the_pure_one_that_the_view_calls(
    as_role: Callable[..., Connection],
) -> None:
    owner = as_role("doceval_owner")
    open_to_all = owner.exec_driver_sql(
        "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace "
        "AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) "
        "WHERE grantee = 0)"
    ).all()
    # Whoever may read the view or write a row evaluates it, with roles of their own, too.
    assert open_to_all == [("impossible_columns",)]
    unpinned = owner.exec_driver_sql(
        "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace "
        "AND p.prosecdef AND NOT 'search_path=public, pg_temp' = ANY (coalesce(p.proconfig, '{}'))"
    ).all()
    assert unpinned == []


def test_a_role_that_may_not_create_roles_gets_an_error_of_one_line(urls: Urls) -> None:
    engine = create_engine(urls("doceval_stager")[Schema.KNOWLEDGE])
    with pytest.raises(DatabaseError, match=r"cannot be created \(.*\): run doceval init --roles as"):
        grant_roles(engine, Schema.KNOWLEDGE)
    engine.dispose()


def test_the_audit_refuses_a_superuser_on_a_server_of_ones_own(
    databases: Databases, settings: Settings, staged: Sample, tmp_path: Path
) -> None:
    invariant = "on your own servers, the pipeline connects without superuser rights"

    def found(opened: Databases) -> list[str]:
        return [
            v.batch
            for v in audit_installation(opened, lambda *_: None, every_document=False)
            if v.invariant == invariant
        ]

    assert found(databases) == []
    assert found(staged.databases) == []
    url = EmbeddedServer(settings.home).url("KnowledgeDocuments")
    # As `doceval env --plain` prints it.
    plain = url.replace("postgresql+psycopg2", "postgresql") + "&port=5432"
    assert found(open_databases(replace(settings, knowledge_documents_url=plain))) == []
    # Under another address, the same server counts as one of your own.
    elsewhere = tmp_path / "socket"
    elsewhere.symlink_to(make_url(url).query["host"])
    other = str(make_url(url).update_query_dict({"host": str(elsewhere)}))
    assert found(open_databases(replace(settings, knowledge_documents_url=other))) == [
        "KNOWLEDGE_DOCUMENTS_URL"
    ]
