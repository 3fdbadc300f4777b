"""Rights of processors' logins that affect others, on a server whose owner is not a superuser."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner
from sqlalchemy.exc import OperationalError

from doceval_pipeline.batches import databases
from doceval_pipeline.batches.access_warnings import access_warnings, is_unlimited
from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.batches.locks import LOCK_CLASS, batch_lock, batches_at_work
from doceval_pipeline.batches.staging.reprocessing import pause
from doceval_pipeline.cli import cli
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.lock_waits import holder_note
from doceval_pipeline.migrations.upgrade import MIGRATION_LOCK
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample, sample_batch
from doceval_pipeline_tests.outsiders.debian_server import PASSWORD, DebianServer

pytestmark = pytest.mark.outsiders
OWNER, WORKER, READER = "their_owner", "their_worker", "their_reader"
NAMES = {
    "DOC_EVAL_URL": "doors_doc_eval",
    "KNOWLEDGE_DOCUMENTS_URL": "doors_knowledge",
    "DAGSTER_POSTGRES_URL": "doors_dagster",
}
LIMIT = "idle_in_transaction_session_timeout"
REVOKE = "REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC"


@pytest.fixture(scope="module")
def server(debian_server: DebianServer) -> DebianServer:
    """Debian's server, with databases and roles of an owner that is not a superuser."""
    debian_server.make_login(OWNER)
    debian_server.execute(f"ALTER ROLE {OWNER} CREATEROLE")
    for name in NAMES.values():
        debian_server.make_database(name, owner=OWNER)
    return debian_server


@pytest.fixture(scope="module")
def urls(server: DebianServer) -> dict[str, str]:
    """The three URLs of the owner."""
    return {variable: server.url(name, OWNER) for variable, name in NAMES.items()}


@pytest.fixture(scope="module")
def installed(server: DebianServer, urls: dict[str, str], settings: Settings) -> Settings:
    """The installation, after init --roles, with a login for a worker and one for a reader."""
    ended = init(urls)
    assert ended.exit_code == 0, ended.output
    server.make_login(WORKER, "doceval_worker", "doceval_plain_worker")
    server.make_login(READER, "doceval_reader")
    return replace(
        settings,
        doc_eval_url=urls["DOC_EVAL_URL"],
        knowledge_documents_url=urls["KNOWLEDGE_DOCUMENTS_URL"],
        dagster_url=urls["DAGSTER_POSTGRES_URL"],
    )


def init(urls: dict[str, str]) -> Any:
    databases._open.cache_clear()
    return CliRunner().invoke(cli, ["init", "--roles"], env=urls)


@contextmanager
def changed(server: DebianServer, statement: str, back: str, database: str = "postgres") -> Iterator[None]:
    """The server after a statement, which another one takes back."""
    server.execute(statement, database)
    try:
        yield
    finally:
        server.execute(back, database)


def idle_lines(installed: Settings) -> list[str]:
    return [line for line in access_warnings(open_databases(installed)) if "idle forever" in line]


@contextmanager
def session(server: DebianServer, variable: str, user: str, statement: str) -> Iterator[int]:
    """A session of another user that has executed a statement and is idle in its transaction; its pid."""
    opened = psycopg2.connect(
        host="127.0.0.1", port=server.port, dbname=NAMES[variable], user=user, password=PASSWORD
    )
    with closing(opened) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        yield connection.info.backend_pid


@pytest.fixture
def batch(installed: Settings, tmp_path: Path) -> Sample:
    """A staged batch."""
    sample = sample_batch(open_databases(installed), tmp_path, documents=2, name=tmp_path.name)
    sample.stage()
    return sample


@pytest.mark.parametrize("variable", ["DOC_EVAL_URL", "DAGSTER_POSTGRES_URL"])
def test_a_worker_cannot_connect_to_the_other_databases(
    server: DebianServer, installed: Settings, variable: str
) -> None:
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        server.execute("SELECT 1", NAMES[variable], WORKER)
    assert server.execute("SELECT 1", NAMES[variable], OWNER) == [(1,)]


def test_a_workers_idle_transactions_end_and_ours_do_not(server: DebianServer, installed: Settings) -> None:
    asked = "SHOW idle_in_transaction_session_timeout"
    assert server.execute(asked, NAMES["KNOWLEDGE_DOCUMENTS_URL"], WORKER) == [("10min",)]
    with open_databases(installed).knowledge.connect() as connection:
        assert connection.exec_driver_sql(asked).scalar() == "0"


def test_the_check_names_what_the_owner_could_not_take_away_with_the_statement(
    server: DebianServer, installed: Settings
) -> None:
    opened = open_databases(installed)
    # One of doceval conformance, which lives for minutes, is not worth a line.
    server.make_login("conformance_0123456789ab", "doceval_worker", "doceval_plain_worker")
    doc_eval, knowledge = access_warnings(opened)
    assert doc_eval.startswith(f"DOC_EVAL_URL: role {READER} can fill the disk with large objects")
    assert knowledge.startswith(f"KNOWLEDGE_DOCUMENTS_URL: roles {READER}, {WORKER} can fill the disk")
    for variable, line in (("DOC_EVAL_URL", doc_eval), ("KNOWLEDGE_DOCUMENTS_URL", knowledge)):
        assert line.endswith(f'as a superuser, in database "{NAMES[variable]}", {REVOKE}')
    with ExitStack() as stack:
        for name in (NAMES["DOC_EVAL_URL"], NAMES["KNOWLEDGE_DOCUMENTS_URL"]):
            back = REVOKE.replace("REVOKE", "GRANT").replace("FROM", "TO")
            stack.enter_context(changed(server, REVOKE, back, name))
        assert access_warnings(opened) == []
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            server.execute("SELECT lo_create(0)", NAMES["KNOWLEDGE_DOCUMENTS_URL"], WORKER)


def test_the_check_names_the_grant_by_which_the_pipeline_sees_since_when_locks_are_held(
    server: DebianServer, installed: Settings
) -> None:
    grant = "GRANT pg_read_all_stats TO doceval_stager"
    with changed(server, "REVOKE pg_read_all_stats FROM doceval_stager", grant):
        lines = [line for line in access_warnings(open_databases(installed)) if line.endswith(grant)]
    assert [line.split(":")[0] for line in lines] == ["DOC_EVAL_URL", "KNOWLEDGE_DOCUMENTS_URL"]


def test_the_check_names_logins_whose_transactions_may_be_idle_for_ever(
    server: DebianServer, installed: Settings
) -> None:
    name = NAMES["KNOWLEDGE_DOCUMENTS_URL"]
    with (
        changed(
            server,
            f"ALTER ROLE {READER} SET {LIMIT} = '1min'",
            f"ALTER ROLE {READER} RESET {LIMIT}",
        ),
        changed(
            server,
            f"ALTER DATABASE {name} RESET {LIMIT}",
            f"ALTER DATABASE {name} SET {LIMIT} = '10min'",
        ),
    ):
        idle = idle_lines(installed)
    assert idle == [
        f"KNOWLEDGE_DOCUMENTS_URL: transactions of role {WORKER} may be idle forever and keep their locks: "
        f'as the owner of the database, ALTER DATABASE "{name}" SET '
        "idle_in_transaction_session_timeout = '10min'"
    ]


def test_the_check_names_a_login_that_has_taken_its_own_limit_away(
    server: DebianServer, installed: Settings
) -> None:
    name = NAMES["KNOWLEDGE_DOCUMENTS_URL"]
    for place, value in (("", "0s"), (f' IN DATABASE "{name}"', "0ms")):
        reset = f'ALTER ROLE "{WORKER}"{place} RESET {LIMIT}'
        # A role may do this to itself.
        server.execute(f"ALTER ROLE {WORKER}{place} SET {LIMIT} = '{value}'", name, WORKER)
        with changed(server, "SELECT 1", reset):
            (line,) = idle_lines(installed)
        assert f"by a setting of role {WORKER}, its transactions may be idle forever" in line
        assert line.endswith(reset)
    assert idle_lines(installed) == []


def test_the_check_does_not_take_its_own_limit_for_that_of_others(
    server: DebianServer, installed: Settings, urls: dict[str, str]
) -> None:
    name = NAMES["KNOWLEDGE_DOCUMENTS_URL"]
    own = (f"ALTER ROLE {OWNER} SET {LIMIT} = '1h'", f"ALTER ROLE {OWNER} RESET {LIMIT}")
    database = (f"ALTER DATABASE {name} RESET {LIMIT}", f"ALTER DATABASE {name} SET {LIMIT} = '10min'")
    with changed(server, *own), changed(server, *database):
        databases._open.cache_clear()
        databases._engine_with_schema.cache_clear()
        (line,) = idle_lines(installed)
        assert f"roles {READER}, {WORKER} may be idle" in line
        assert init(urls).exit_code == 0
        assert idle_lines(installed) == []


@pytest.mark.parametrize(
    "value",
    [
        "0", "0s", "0ms", "0 min", "0.4", "0.4ms", "0.4s", "400us", "600us", "0x0", "0x10", "010", "1e-3",
        "1e3", "0.001h", "0.01h", "0.0001min", "0.001d", "0.1d", "10min", " 5 s ", "1d",
    ],
)  # fmt: skip
def test_a_limit_is_read_as_the_server_reads_it(server: DebianServer, value: str) -> None:
    read = server.execute(f"SELECT set_config('{LIMIT}', '{value}', false)")
    assert is_unlimited(value) == (read == [("0",)])


def test_the_check_names_logins_that_can_connect_to_dagsters_database(
    server: DebianServer, installed: Settings
) -> None:
    name = NAMES["DAGSTER_POSTGRES_URL"]
    back = f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"
    with changed(server, f"GRANT CONNECT ON DATABASE {name} TO PUBLIC", back):
        (line,) = [
            door for door in access_warnings(open_databases(installed)) if "Dagster's database" in door
        ]
    assert f"roles {READER}, {WORKER} can connect" in line
    assert f'REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC' in line


def test_a_workers_advisory_lock_stops_no_init_and_is_named(
    server: DebianServer, installed: Settings, urls: dict[str, str]
) -> None:
    taken = f"SELECT pg_advisory_lock({MIGRATION_LOCK.arguments})"
    with session(server, "KNOWLEDGE_DOCUMENTS_URL", WORKER, taken) as pid:
        ended = init(urls)
        assert isinstance(ended.exception, DatabaseError)
        assert f"cannot be locked: a lock is held by role {WORKER} (pid {pid})" in str(ended.exception)
        assert any(
            f"other sessions hold locks of the pipeline: a lock is held by role {WORKER} (pid {pid})" in line
            for line in access_warnings(open_databases(installed))
        )
    assert init(urls).exit_code == 0


def test_a_readers_advisory_lock_does_not_pass_for_a_working_process_and_is_named(
    server: DebianServer, installed: Settings, batch: Sample
) -> None:
    opened = open_databases(installed)
    with session(server, "DOC_EVAL_URL", READER, f"SELECT pg_advisory_lock({LOCK_CLASS}, {batch.id})") as pid:
        with opened.doc_eval.connect() as connection:
            assert batches_at_work(connection) == set()
        with (
            pytest.raises(
                DatabaseError, match=rf"{batch.key} cannot be locked: .* role {READER} \(pid {pid}\)"
            ),
            batch_lock(opened, batch.id),
        ):
            pass
    with batch_lock(opened, batch.id):
        pass


def test_a_pause_names_the_worker_also_where_its_owner_may_not_see_since_when(
    server: DebianServer, installed: Settings, batch: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doceval_pipeline.batches.staging.reprocessing.SECONDS_FOR_LOCKED_ROWS", 0.3)
    locked = f"SELECT FROM llm_responses WHERE batch_id = {batch.id} ORDER BY id LIMIT 1 FOR UPDATE"
    with (
        session(server, "KNOWLEDGE_DOCUMENTS_URL", WORKER, locked) as pid,
        pytest.raises(
            DatabaseError,
            match=rf"7 of its rows are held, .* role {WORKER} \(pid {pid}, in llm_responses\): end its",
        ),
    ):
        pause(open_databases(installed), batch.id)


def test_a_pause_by_a_stager_tells_for_how_long_a_lock_is_held(
    server: DebianServer, installed: Settings, batch: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doceval_pipeline.batches.staging.reprocessing.SECONDS_FOR_LOCKED_ROWS", 0.3)
    server.make_login("their_stager", "doceval_stager")
    as_stager = replace(
        installed,
        doc_eval_url=server.url(NAMES["DOC_EVAL_URL"], "their_stager"),
        knowledge_documents_url=server.url(NAMES["KNOWLEDGE_DOCUMENTS_URL"], "their_stager"),
    )
    locked = f"SELECT FROM llm_responses WHERE batch_id = {batch.id} ORDER BY id LIMIT 1 FOR UPDATE"
    with (
        session(server, "KNOWLEDGE_DOCUMENTS_URL", WORKER, locked) as pid,
        pytest.raises(DatabaseError, match=rf"\(pid {pid}, idle in transaction for \d+ s, in llm_responses"),
    ):
        pause(open_databases(as_stager), batch.id)


def test_an_idle_reader_is_named_when_the_roles_are_granted_again(
    server: DebianServer, installed: Settings, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doceval_pipeline.migrations.upgrade.SECONDS_FOR_TABLES", 0.3)
    read = "SELECT count(*) FROM llm_responses"
    with session(server, "KNOWLEDGE_DOCUMENTS_URL", READER, read) as pid:
        ended = init(urls)
    assert isinstance(ended.exception, OperationalError)
    assert holder_note(ended.exception.orig).startswith(
        f"database {NAMES['KNOWLEDGE_DOCUMENTS_URL']}: a lock is held by role {READER} "
        f"(pid {pid}, in llm_responses): end its transaction"
    )
    assert init(urls).exit_code == 0
