"""Login roles on a Debian PostgreSQL whose owner is not a superuser have the rights of SECURITY.md."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import database_errors, open_databases
from doceval_pipeline.cli import cli
from doceval_pipeline.doc_eval.archive import dump as archived_doc_eval
from doceval_pipeline.doc_eval.archive import load as restored_doc_eval
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.knowledge.archive import dump as archived_knowledge
from doceval_pipeline.knowledge.archive import load as restored_knowledge
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.batches.archiving.archives import done, quiet, restore_file
from doceval_pipeline_tests.cli.running import write_evaluation
from doceval_pipeline_tests.conftest import sample_batch
from doceval_pipeline_tests.outsiders.debian_server import DebianServer

pytestmark = pytest.mark.outsiders

OWNER, STAGER, READER, WORKER, PLAIN = "an_owner", "a_stager", "a_reader", "a_worker", "a_plain_worker"
DOC_EVAL, KNOWLEDGE, DAGSTER = "their_doc_eval", "their_knowledge", "their_dagster"
VARIABLES = {"DOC_EVAL_URL": DOC_EVAL, "KNOWLEDGE_DOCUMENTS_URL": KNOWLEDGE, "DAGSTER_POSTGRES_URL": DAGSTER}
EVERYTHING = """
    SELECT tablename, query_to_xml(format('TABLE %I', tablename), true, false, '')::text
    FROM pg_tables WHERE schemaname = 'public' ORDER BY 1
"""
SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1"
GRANTED = """
    SELECT format('%s ON %I', privilege_type, table_name) FROM information_schema.role_table_grants
    WHERE grantee = 'doceval_stager'
    UNION SELECT format('%s (%I) ON %I', privilege_type, column_name, table_name)
    FROM information_schema.role_column_grants c WHERE grantee = 'doceval_stager' AND NOT EXISTS (
        SELECT FROM information_schema.role_table_grants t
        WHERE (t.grantee, t.table_name, t.privilege_type) = (c.grantee, c.table_name, c.privilege_type))
    UNION SELECT format('%s ON SEQUENCE %I', a.privilege_type, relname)
    FROM pg_class, aclexplode(relacl) AS a WHERE relkind = 'S' AND a.grantee = 'doceval_stager'::regrole
    UNION SELECT format('EXECUTE ON FUNCTION %s', oid::regprocedure)
    FROM pg_proc, aclexplode(proacl) AS a WHERE a.grantee = 'doceval_stager'::regrole
    ORDER BY 1
"""


@dataclass(frozen=True)
class Installation:
    """An installation on another server, as seen by a login role."""

    server: DebianServer
    home: Path

    def settings(self, role: str) -> Settings:
        return Settings.from_environment(self.environment(role))

    def environment(self, role: str) -> dict[str, str]:
        urls = {variable: self.server.url(database, role) for variable, database in VARIABLES.items()}
        return {"DOCEVAL_HOME": str(self.home), **urls}

    def run(self, role: str, *command: str) -> str:
        """Run a command that must succeed."""
        with database_errors():
            ended = CliRunner().invoke(cli, command, env=self.environment(role))
        assert ended.exit_code == 0, f"{command}: {ended.output} {ended.exception}"
        return ended.output

    def everything(self) -> list[Any]:
        return [
            self.server.execute(statement, database)
            for database in (DOC_EVAL, KNOWLEDGE)
            for statement in (EVERYTHING, SEQUENCES)
        ]


@pytest.fixture(scope="module")
def installation(
    debian_server: DebianServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Databases of an owner that is not a superuser, the group roles, and a login role in each."""
    debian_server.make_login(OWNER)
    debian_server.execute(f"ALTER ROLE {OWNER} CREATEROLE")
    made = Installation(debian_server, tmp_path_factory.mktemp("theirs"))
    for database in (DOC_EVAL, KNOWLEDGE, DAGSTER):
        debian_server.make_database(database, OWNER)
    made.run(OWNER, "init", "--roles")
    groups = {
        STAGER: "doceval_stager",
        READER: "doceval_reader",
        WORKER: "doceval_worker",
        PLAIN: "doceval_plain_worker",
    }
    for login, group in groups.items():
        debian_server.make_login(login, group)
    yield made
    # Other tests on this server list the members.
    for login, group in groups.items():
        debian_server.execute(f"REVOKE {group} FROM {login}")
    for role in (OWNER, STAGER, READER):
        databases = open_databases(made.settings(role))
        databases.doc_eval.dispose()
        databases.knowledge.dispose()


def test_the_stager_runs_every_command_of_the_pipeline(installation: Installation, tmp_path: Path) -> None:
    def run(*command: str) -> str:
        return installation.run(STAGER, *command)

    file = write_evaluation(tmp_path, "theirs")
    run("apply", str(file))
    run("plan", "theirs")
    run("stage", "theirs")
    run("status")
    run("documents", "theirs")
    run("pause", "theirs")
    run("resume", "theirs")
    installation.run(OWNER, "simulate-processor", "--until-empty", "--latency", "0")
    run("report", "theirs")
    run("reprocess", "theirs", "--all", "--rescan")
    run("cancel", "theirs")
    run("reprocess", "theirs", "--failed")
    installation.run(OWNER, "simulate-processor", "--until-empty", "--latency", "0")
    run("report", "theirs")
    run("export", "theirs", "--output", str(tmp_path / "results.csv"))
    run("check")
    archived = json.loads(run("archive", "theirs", "--json"))["archive"]
    assert archived["documents_removed"] == 3
    run("restore", archived["path"])
    run("check")


def test_whoever_made_dagsters_tables_owner_and_stagers_can_use_them(
    installation: Installation, debian_server: DebianServer, tmp_path: Path
) -> None:
    other, second = "their_other_dagster", "a_second_stager"
    debian_server.make_database(other, OWNER)
    debian_server.make_login(second, "doceval_stager")
    file = str(write_evaluation(tmp_path, "whoever"))

    def ended(role: str, dagsters_role: str, *command: str) -> str:
        urls = {"DAGSTER_POSTGRES_URL": debian_server.url(other, dagsters_role)}
        environment = installation.environment(role) | urls
        try:
            with database_errors():
                outcome = CliRunner().invoke(cli, command, env=environment)
                if outcome.exception is not None:
                    raise outcome.exception
        except DatabaseError as error:
            return str(error)
        return "done"

    assert ended(STAGER, STAGER, "apply", file) == "done"
    refused = ended(STAGER, STAGER, "stage", "whoever")
    assert refused.startswith(f"DAGSTER_POSTGRES_URL: role {STAGER} may not use Dagster's tables in database")
    assert refused.endswith(f"of role {OWNER}, and GRANT doceval_stager TO {STAGER}")
    # A stager comes first, in a database where it may make tables.
    debian_server.execute("GRANT CREATE ON SCHEMA public TO doceval_stager", other)
    assert ended(STAGER, STAGER, "stage", "whoever") == "done"
    told = ended(OWNER, OWNER, "init", "--roles")
    assert f"role {OWNER} may not use Dagster's tables" in told
    assert f"run doceval init --roles with the DAGSTER_POSTGRES_URL of role {STAGER}" in told
    assert ended(OWNER, STAGER, "init", "--roles") == "done"
    assert ended(OWNER, OWNER, "init", "--roles") == "done"
    for role in (OWNER, STAGER, second):
        assert ended(role, role, "stage", "whoever") == "done"
    debian_server.execute("REVOKE ALL ON kvs FROM doceval_owner, doceval_stager", other)
    assert ended(OWNER, OWNER, "init", "--roles") == (
        f"DAGSTER_POSTGRES_URL: kvs belong to role {STAGER}: run doceval init --roles with "
        f"DAGSTER_POSTGRES_URL of {STAGER}"
    )
    for role in (OWNER, STAGER):
        later = f"CREATE TABLE later_{role} (id serial PRIMARY KEY)"
        debian_server.execute(later, other, role)
        for user in (OWNER, STAGER, second):
            debian_server.execute(f"INSERT INTO later_{role} DEFAULT VALUES", other, user)
    for role in (READER, WORKER, PLAIN):
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            debian_server.execute("SELECT 1", other, role)


def test_a_stager_stages_where_all_three_databases_are_one_and_makes_no_table_in_it(
    installation: Installation, debian_server: DebianServer, tmp_path: Path
) -> None:
    debian_server.make_database("all_in_one", OWNER)

    def run(role: str, *command: str) -> None:
        urls = dict.fromkeys(VARIABLES, debian_server.url("all_in_one", role))
        with database_errors():
            ended = CliRunner().invoke(cli, command, env=installation.environment(role) | urls)
        assert ended.exit_code == 0, f"{command}: {ended.output} {ended.exception}"

    run(OWNER, "init", "--roles")
    for command in (("apply", str(write_evaluation(tmp_path, "one"))), ("stage", "one"), ("pause", "one")):
        run(STAGER, *command)
    for attempt in ("CREATE TABLE mine ()", "UPDATE docs SET content = ''"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            debian_server.execute(attempt, "all_in_one", STAGER)


def test_a_reader_runs_what_only_reads(installation: Installation, tmp_path: Path) -> None:
    batch = done(sample_batch(open_databases(installation.settings(OWNER)), tmp_path, 2, name="to be read"))
    before = installation.everything()
    for command in (
        ("status",),
        ("status", batch.name),
        ("documents", batch.name),
        ("plan", batch.name),
        ("compare", batch.name, "--prompts", "prompt-0", "prompt-1"),
        ("export", batch.name, "--output", str(tmp_path / "results.csv")),
        ("check",),
    ):
        installation.run(READER, *command)
    assert installation.everything() == before
    refused = CliRunner().invoke(cli, ["stage", batch.name], env=installation.environment(READER))
    assert re.fullmatch(
        f"DAGSTER_POSTGRES_URL: role {READER} may not connect to {DAGSTER} on 127.0.0.1:\\d+: "
        "the command needs a member of doceval_stager",
        str(refused.exception),
    )


def test_workers_do_their_work_and_nothing_else(installation: Installation, tmp_path: Path) -> None:
    batch = sample_batch(open_databases(installation.settings(OWNER)), tmp_path, 1, 2, 2, name="to be done")
    batch.stage()

    def run(role: str, statement: str) -> list[Any]:
        return installation.server.execute(statement, KNOWLEDGE, role)

    (token, document) = run(WORKER, "SELECT token, document_id FROM claim_responses(1)")[0]
    assert run(WORKER, f"SELECT length(content) > 0 FROM docs WHERE id = {document}") == [(True,)]
    assert run(WORKER, f"SELECT changed FROM heartbeat_response('{token}')") == [(True,)]
    assert run(WORKER, f"SELECT changed FROM complete_response('{token}')") == [(True,)]
    claimed = "SELECT min(id) FROM llm_responses WHERE status = 'QUEUED'"
    run(PLAIN, f"UPDATE llm_responses SET status = 'P', task_id = 'mine' WHERE id = ({claimed})")
    run(PLAIN, "UPDATE llm_responses SET status = 'S', overall_score = 1 WHERE task_id = 'mine'")
    assert run(PLAIN, "SELECT status FROM llm_responses WHERE task_id = 'mine'") == [("S",)]
    for role, statement in (
        (WORKER, "DELETE FROM docs"),
        (WORKER, "SELECT 1 FROM llm_responses"),
        (PLAIN, "UPDATE docs SET content_type = ''"),
        (READER, "SELECT 1 FROM docs FOR KEY SHARE"),
        (STAGER, "UPDATE docs SET content = ''"),
        (STAGER, "UPDATE docs SET created_at = now()"),
        (STAGER, "UPDATE llm_responses SET overall_score = 100"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            run(role, statement)
    for role in (WORKER, PLAIN):
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            installation.server.execute("SELECT 1", DOC_EVAL, role)


def rights(module: Any) -> list[str]:
    """What a command asks for in one database, as roles.sql grants it."""
    asked = [f"{right} ON {table}" for table, given in module.RIGHTS for right in given.split(", ")]
    numbered = getattr(module, "NUMBERED", ())
    asked += [f"USAGE ON SEQUENCE {table}_id_seq" for table in numbered]
    functions = [*getattr(module, "FUNCTIONS", ()), *(["advance_numbers"] if numbered else [])]
    asked += [f"EXECUTE ON FUNCTION {name}" for name in functions]
    return [right.replace("UPDATE ON docs", "UPDATE (content_type) ON docs") for right in asked]


def test_archive_and_restore_name_each_right_that_is_missing_before_they_change_anything(
    installation: Installation, tmp_path: Path
) -> None:
    databases = open_databases(installation.settings(STAGER))
    as_owner = open_databases(installation.settings(OWNER))
    batch = done(sample_batch(as_owner, tmp_path, documents=1, name="one right"))

    def granted(database: str, these: list[str], back: bool = True) -> None:
        for right in these:
            statement = f"GRANT {right} TO doceval_stager" if back else f"REVOKE {right} FROM doceval_stager"
            installation.server.execute(statement, database)

    def come_back() -> None:
        (file,) = batch.doc_eval("SELECT archive_file FROM batches WHERE id = :id")[0]
        restore_file(databases, databases.settings.archives / file)

    archive_batch = partial(archive, databases, batch.id, quiet, quiet)
    steps = (
        (archive_batch, ((DOC_EVAL, archived_doc_eval), (KNOWLEDGE, archived_knowledge))),
        (come_back, ((DOC_EVAL, restored_doc_eval), (KNOWLEDGE, restored_knowledge))),
    )
    for act, modules in steps:
        before = installation.everything()
        others = {}
        for database, module in modules:
            wanted = rights(module)
            for right in wanted:
                granted(database, [right], back=False)
                with pytest.raises(
                    DatabaseError, match=r"lacks rights for .*; nothing was changed"
                ) as caught:
                    act()
                granted(database, [right])
                assert len(str(caught.value).splitlines()) == 1
                assert installation.everything() == before, right
            all_of_them = [row[0] for row in installation.server.execute(GRANTED, database)]
            others[database] = [
                right for right in all_of_them if re.sub(r"\((int|text).*", "", right) not in wanted
            ]
            granted(database, others[database], back=False)
        act()  # With no right beside those that it asks for.
        for database, these in others.items():
            granted(database, these)
