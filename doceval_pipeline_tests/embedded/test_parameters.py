"""Nothing that the environment holds for other servers reaches the embedded one."""

from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.conformance.processes import _is_removed
from doceval_pipeline.embedded.parameters import program_environment, quoted
from doceval_pipeline.embedded.server import EmbeddedServer

# Every variable of libpq, with what would fail, hang or lead elsewhere.
LIBPQ = {
    "PGAPPNAME": "x" * 100,
    "PGCHANNELBINDING": "require",
    "PGCLIENTENCODING": "KLINGON",
    "PGCONNECT_TIMEOUT": "soon",
    "PGDATABASE": "nowhere",
    "PGDATESTYLE": "odd",
    "PGGEQO": "odd",
    "PGGSSDELEGATION": "odd",
    "PGGSSENCMODE": "require",
    "PGGSSLIB": "odd",
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "192.0.2.1",
    "PGKRBSRVNAME": "odd",
    "PGLOADBALANCEHOSTS": "odd",
    "PGLOCALEDIR": "/nowhere",
    "PGMAXPROTOCOLVERSION": "9",
    "PGMINPROTOCOLVERSION": "9",
    "PGOPTIONS": "--no-such-option",
    "PGPASSFILE": "/dev/full",
    "PGPASSWORD": "a password for another server",
    "PGPORT": "77777",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "nosuchuser",
    "PGREQUIRESSL": "1",
    "PGSERVICE": "nosuchservice",
    "PGSERVICEFILE": "/nowhere",
    "PGSSLCERT": "/nowhere",
    "PGSSLCERTMODE": "odd",
    "PGSSLCOMPRESSION": "odd",
    "PGSSLCRL": "/nowhere",
    "PGSSLCRLDIR": "/nowhere",
    "PGSSLKEY": "/nowhere",
    "PGSSLMAXPROTOCOLVERSION": "odd",
    "PGSSLMINPROTOCOLVERSION": "odd",
    "PGSSLMODE": "odd",
    "PGSSLNEGOTIATION": "odd",
    "PGSSLROOTCERT": "/nowhere",
    "PGSSLSNI": "odd",
    "PGSYSCONFDIR": "/nowhere",
    "PGTARGETSESSIONATTRS": "standby",
    "PGTZ": "Nowhere/Land",
    "PGUSER": "nosuchuser",
}


def test_no_variable_of_libpq_reaches_a_connection(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer(databases.settings.home)
    for name, value in LIBPQ.items():
        with monkeypatch.context() as alone:
            alone.setenv(name, value)
            server.connect("doc_eval", application_name=f"a test of {name}").close()
    for name, value in LIBPQ.items():
        monkeypatch.setenv(name, value)
    databases.doc_eval.dispose()
    with databases.doc_eval.connect() as connection:
        assert connection.exec_driver_sql("SELECT current_user").scalar_one() == "postgres"


def test_the_server_s_programs_get_nothing_of_the_user_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGDATA", "PGPORT", "LANG", "LC_MESSAGES", "HOME", "TMPDIR", "PYTHONHOME", "http_proxy"):
        monkeypatch.setenv(name, "odd")
    monkeypatch.setenv("LC_ALL", "odd")
    monkeypatch.setenv("TZ", "odd")
    monkeypatch.delenv("PATH")
    assert {*program_environment()} - {"LD_LIBRARY_PATH"} == {"PATH", "LC_ALL", "TZ"}
    assert "odd" not in program_environment().values()


def test_a_value_in_the_server_s_configuration_keeps_quotes_and_backslashes() -> None:
    assert quoted("a'b\\c") == r"'a''b\\c'"


def test_a_processor_under_trial_is_not_led_past_the_scratch_database_and_the_model() -> None:
    assert all(
        map(_is_removed, [*LIBPQ, "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "DOC_EVAL_URL"])
    )
    assert not any(map(_is_removed, ["PATH", "HOME", "OPENAI_API_KEY", "PGP_KEY", "LANG", "SSL_CERT_FILE"]))


def test_urls_of_other_servers_are_not_taken_for_the_embedded_one(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    own = server.url("doc_eval")
    assert server.is_own_url(own, "doc_eval")
    for other in (
        own + "x",
        own + "&port=1",
        own.replace("doc_eval", "x"),
        own.replace("postgres@", "me@"),
        "",
    ):
        assert not server.is_own_url(other, "doc_eval")
