"""Each role tries what it must not do: both databases are afterwards what they were before."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from doceval_pipeline.migrations.upgrade import Schema
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.migrations.attacks import attacks
from doceval_pipeline_tests.migrations.conftest import STRANGER, Urls

MEMBERS = ("doceval_worker", "doceval_plain_worker", "doceval_reader", "doceval_stager")
# An attack that is no valid statement, or is on what is not there, proves nothing.
MISTAKES = ("42601", "42703", "42P01", "42883", "42704", "42804", "25001", "25P01")
# Everything that an attack might change: rows, clocks, rights, definitions, settings, roles. What is
# temporary is left out, and ends with its session.
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')"
CATALOGS = """
    SELECT c.oid::regclass::text, c.relkind::text, c.relowner::text, c.relacl::text || c.relrowsecurity
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_(toast|temp)' AND n.nspname <> 'information_schema'
    UNION ALL SELECT p.oid::regprocedure::text, md5(p.prosrc), p.prosecdef::text || p.proowner,
                     p.proacl::text || p.proconfig::text
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_temp'
    UNION ALL SELECT t.tgname, t.tgenabled::text, t.tgtype::text, t.tgfoid::text
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relpersistence <> 't'
    UNION ALL SELECT conname, contype::text, conrelid::text, pg_get_constraintdef(oid) FROM pg_constraint
    UNION ALL SELECT rulename, ev_class::text, NULL, NULL FROM pg_rewrite
    UNION ALL SELECT nspname, nspacl::text, NULL, NULL FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
    UNION ALL SELECT rolname, rolsuper::text, rolcanlogin::text, rolconfig::text FROM pg_roles
    UNION ALL SELECT roleid::text, member::text, admin_option::text, NULL FROM pg_auth_members
    UNION ALL SELECT setrole::text, setdatabase::text, setconfig::text, NULL FROM pg_db_role_setting
    UNION ALL SELECT evtname, evtevent, NULL, NULL FROM pg_event_trigger
    UNION ALL SELECT pubname, NULL, NULL, NULL FROM pg_publication
    UNION ALL SELECT oid::text, lomowner::text, NULL, NULL FROM pg_largeobject_metadata
    UNION ALL SELECT locktype, classid::text, objid::text, mode FROM pg_locks
    WHERE locktype = 'advisory'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture(scope="module")
def owners(urls: Urls) -> Iterator[dict[Schema, Connection]]:
    """A superuser in each database."""
    engines = {
        schema: create_engine(url.replace("test_doceval_owner@", "postgres@"), isolation_level="AUTOCOMMIT")
        for schema, url in urls("doceval_owner").items()
    }
    connections = {schema: engine.connect() for schema, engine in engines.items()}
    yield connections
    for schema, engine in engines.items():
        connections[schema].close()
        engine.dispose()


def state(owner: Connection) -> dict[str, set[str]]:
    """All that an attack might change, as text."""
    found = {
        table: set(owner.exec_driver_sql(f'SELECT ROW(t.*)::text FROM "{table}" AS t').scalars())
        for table in owner.exec_driver_sql(TABLES).scalars()
    }
    # A write that was ignored leaves a difference of nothing, for which the batch is looked at again.
    deltas = {delta for delta in found.get("response_deltas", ()) if not delta.endswith(",0,0,0,0,0,0)")}
    catalogs = {str(tuple(row)) for row in owner.exec_driver_sql(CATALOGS)}
    return {**found, "response_deltas": deltas, "catalogs": catalogs}


@pytest.fixture
def at_work(staged: Sample, as_role: Callable[..., Connection]) -> Sample:
    """A batch with rows in every state: waiting, under a lease of another processor, succeeded, failed."""
    worker = as_role("doceval_worker")
    claimed = worker.exec_driver_sql("SELECT token FROM claim_responses(4, '1 hour', 'w')").scalars().all()
    worker.execute(text("SELECT complete_response(:t, 50, 'true')"), {"t": claimed[0]})
    worker.execute(text("SELECT fail_response(:t, 'reason')"), {"t": claimed[1]})
    return staged


def attack(url: str, statement: str, seen: Callable[[], str]) -> str:
    """Try a statement in a session of its own: how it was refused, or what was seen of its effects."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            return seen()
    except DBAPIError as error:
        return str(getattr(error.orig, "pgcode", None) or error.orig)


@pytest.mark.parametrize("role", [*MEMBERS, STRANGER])
def test_a_role_tries_all_that_it_must_not_and_changes_nothing(
    at_work: Sample, urls: Urls, owners: dict[Schema, Connection], role: str
) -> None:
    before = {schema: state(owner) for schema, owner in owners.items()}

    def effects(schema: Schema) -> str:
        now = state(owners[schema])
        return str({name: rows ^ now[name] for name, rows in before[schema].items() if rows != now[name]})

    answers = {
        f"{schema.value}: {name}": attack(urls(role)[schema], statement, partial(effects, schema))
        for schema, name, statement in attacks(role)
    }
    assert {name: answer for name, answer in answers.items() if answer.startswith("{'")} == {}
    assert {name: answer for name, answer in answers.items() if answer in MISTAKES} == {}
    assert [effects(schema) for schema in Schema] == ["{}", "{}"]
    assert len(answers) > 50


def test_no_operator_of_a_plain_worker_gets_past_the_guard(
    at_work: Sample, as_role: Callable[..., Connection], owners: dict[Schema, Connection]
) -> None:
    owner, plain = owners[Schema.KNOWLEDGE], as_role("doceval_plain_worker")
    # As in a database where its login has a schema of its own for other work.
    owner.exec_driver_sql("CREATE SCHEMA elsewhere; GRANT CREATE, USAGE ON SCHEMA elsewhere TO PUBLIC")
    plain.exec_driver_sql("""
        CREATE FUNCTION elsewhere.yes(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE OPERATOR elsewhere.<= (
            FUNCTION = elsewhere.yes, LEFTARG = timestamptz, RIGHTARG = timestamptz);
        SET search_path = elsewhere, public, pg_catalog
    """)
    before = state(owner)
    plain.exec_driver_sql("UPDATE llm_responses SET status = 'S', overall_score = 1 WHERE status = 'P'")
    after = state(owner)
    owner.exec_driver_sql("DROP SCHEMA elsewhere CASCADE")
    assert after["llm_responses"] == before["llm_responses"]


def test_a_worker_cannot_put_off_when_others_look_at_leases(
    at_work: Sample, as_role: Callable[..., Connection], owners: dict[Schema, Connection]
) -> None:
    worker = as_role("doceval_worker")
    worker.exec_driver_sql("SET llm_responses.next_look = 'infinity'")
    worker.exec_driver_sql("SELECT * FROM claim_responses(1, '1 day')")
    until = owners[Schema.KNOWLEDGE].exec_driver_sql(
        "SELECT to_timestamp(last_value / 1000000.0) - clock_timestamp() FROM llm_responses_lease_clock"
    )
    assert until.scalar_one().total_seconds() < 2


@pytest.mark.parametrize("role", ["doceval_worker", "doceval_plain_worker", "doceval_reader", STRANGER])
def test_nobody_holds_up_the_counting_by_a_lock(
    at_work: Sample, as_role: Callable[..., Connection], role: str
) -> None:
    other = as_role(role)
    other.exec_driver_sql("SELECT pg_advisory_lock(hashtextextended('response_counts', 0))")
    stager = as_role("doceval_stager")
    stager.exec_driver_sql("SET statement_timeout = '5 s'")
    stager.exec_driver_sql("SELECT recount_responses(1)")


def test_two_countings_come_one_after_the_other(
    at_work: Sample, as_role: Callable[..., Connection], owners: dict[Schema, Connection]
) -> None:
    first, second = as_role("doceval_stager"), as_role("doceval_stager")
    first.exec_driver_sql("BEGIN; SELECT recount_responses(1)")
    second.exec_driver_sql("SET lock_timeout = '200 ms'")
    with pytest.raises(DBAPIError, match="lock timeout"):
        second.exec_driver_sql("SELECT recount_responses(2)")
    first.exec_driver_sql("COMMIT")
    second.exec_driver_sql("SELECT recount_responses(2)")


@pytest.mark.parametrize(
    "result",
    [
        "overall_score => 'NaN'",
        "overall_score => 'Infinity'",
        "overall_score => -0.001",
        "overall_score => 100.001",
        "input_tokens => 2147483648",
        "response_text => chr(0)",
    ],
)
def test_a_result_that_is_no_result_is_refused_and_the_lease_lasts(
    at_work: Sample, as_role: Callable[..., Connection], owners: dict[Schema, Connection], result: str
) -> None:
    worker, owner = as_role("doceval_worker"), owners[Schema.KNOWLEDGE]
    token = worker.exec_driver_sql("SELECT token FROM claim_responses(1)").scalar_one()
    before = state(owner)
    for call in (f"complete_response('{token}', {result})", f"fail_response('{token}', 'no', {result})"):
        with pytest.raises(DBAPIError):
            worker.exec_driver_sql(f"SELECT {call}")
    assert state(owner) == before
    assert worker.execute(text("SELECT changed FROM complete_response(:t, 1)"), {"t": token}).scalar()


def test_an_old_token_and_that_of_another_worker_write_nothing(
    at_work: Sample, as_role: Callable[..., Connection], owners: dict[Schema, Connection]
) -> None:
    mine, owner = as_role("doceval_worker"), owners[Schema.KNOWLEDGE]
    old = mine.exec_driver_sql("SELECT token FROM claim_responses(1)").scalar_one()
    mine.execute(text("SELECT fail_response(:t, 'later', retry => true)"), {"t": old})
    # What a reader sees of a lease is of no use to a reader.
    held = as_role("doceval_reader").exec_driver_sql(
        "SELECT lease_token FROM llm_responses WHERE lease_expires_at IS NOT NULL"
    )
    assert held.scalars().all() != []
    before = state(owner)
    for call in ("complete_response(:t, 100)", "fail_response(:t, 'no')", "heartbeat_response(:t)"):
        changed, message = mine.execute(
            text(f"SELECT (r).* FROM (SELECT {call} AS r) AS c"), {"t": old}
        ).one()
        assert not changed
        assert "nothing was changed" in message
    assert state(owner) == before
