"""Dagster's real webserver changes nothing on a GET, and nothing for other sites' pages."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from doceval_pipeline.defs.webserver import Webserver, only_reads
from doceval_pipeline_tests.hostile_pages import target

CLICK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FOREIGN = [
    CLICK,
    {**CLICK, "sec-fetch-site": "same-site"},
    {**CLICK, "sec-fetch-dest": "object", "accept": "*/*"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    {"origin": "null"},
    {"referer": "https://evil.invalid/"},
    {"host": "evil.invalid"},
    {"host": "[::1"},
]
OURS = [{}, {"sec-fetch-site": "same-origin"}, {"referer": "http://127.0.0.1:3000/runs"}]


class Dagster:
    """The webserver's application, and the instance that it would change."""

    def __init__(self, instance: dg.DagsterInstance, context: WorkspaceProcessContext) -> None:
        self._instance = instance
        self.client = TestClient(Webserver(context).create_asgi_app(), "http://127.0.0.1:3000")

    def changes(self) -> set[str]:
        """Names of the mutations that were executed."""
        return set(self._instance.event_log_storage.get_concurrency_keys())

    def forget_changes(self) -> None:
        """Undo the mutations."""
        for name in self.changes():
            self._instance.event_log_storage.delete_concurrency_limit(name)


def mutation(name: str) -> str:
    """A mutation that leaves its name behind."""
    return f'mutation {{ setConcurrencyLimit(concurrencyKey: "{name}", limit: 1) }}'


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance,
        WorkspaceProcessContext(instance, workspace_load_target=EmptyWorkspaceTarget()) as context,
    ):
        yield Dagster(instance, context)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where the webserver listens."""
    with target(tmp_path_factory.mktemp("listening") / "dagster") as listening:
        yield "127.0.0.1", listening.port


@pytest.fixture
def dagster(started: Dagster) -> Dagster:
    """A webserver that executed nothing yet."""
    started.forget_changes()
    return started


def test_a_mutation_is_a_post_of_our_own_pages_or_of_a_program(dagster: Dagster) -> None:
    for number, headers in enumerate(OURS):
        answer = dagster.client.post("/graphql", json={"query": mutation(f"own {number}")}, headers=headers)
        assert answer.json() == {"data": {"setConcurrencyLimit": True}}
    assert dagster.changes() == {"own 0", "own 1", "own 2"}


def test_nothing_that_a_foreign_page_sends_is_executed(dagster: Dagster) -> None:
    part = f'Content-Disposition: form-data; name="query"\r\n\r\n{mutation("part")}'
    bodies = {
        "application/json": json.dumps({"query": mutation("json")}),
        "application/graphql": mutation("graphql"),
        "text/plain": json.dumps({"query": mutation("text")}),
        "application/x-www-form-urlencoded": f"query={mutation('form')}",
        "multipart/form-data; boundary=x": f"--x\r\n{part}\r\n--x--",
    }
    # A route of Starlette's matches before a line feed at the end, too.
    paths = ("/graphql", "/graphql%0A", "/graph%71l", "/graphql?operationName=x")
    for headers, (kind, body), path in product(FOREIGN, bodies.items(), paths):
        parameters = {"query": mutation("parameter")}
        for method in ("GET", "POST", "PUT", "HEAD", "OPTIONS"):
            answer = dagster.client.request(
                method, path, params=parameters, content=body, headers={"content-type": kind, **headers}
            )
            assert answer.status_code in (403, 405), (method, path, headers)
    for headers, what in product(FOREIGN, ("materialization", "check", "observation")):
        assert dagster.client.post(f"/report_asset_{what}/x", json={}, headers=headers).status_code == 403
    assert dagster.changes() == set()


@pytest.mark.parametrize("headers", [*OURS, *FOREIGN])
def test_no_get_changes_anything_whoever_sends_it(dagster: Dagster, headers: dict[str, str]) -> None:
    documents = (
        mutation("plain"),
        f"# a comment\n{mutation('comment')}",
        f"query read {{ version }} {mutation('second').replace('mutation', 'mutation write')}",
        f"fragment f on Query {{ version }} {mutation('fragment')}",
    )
    for document, name in product(documents, (None, "read", "write")):
        parameters = {"query": document, **({"operationName": name} if name else {})}
        assert dagster.client.get("/graphql", params=parameters, headers=headers).status_code in (403, 405)
    twice = [("query", "{ version }"), ("query", mutation("twice"))]
    for parameters_twice in (twice, twice[::-1]):
        assert dagster.client.get("/graphql", params=parameters_twice, headers=headers).status_code in (
            403,
            405,
        )
    assert dagster.changes() == set()


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: [::1",
        b"Host: 127.0.0.1:99999999",
        b"Host: 127.0.0.1:\xd9\xa3",
        b"Host: \xff",
        b"Host: me@127.0.0.1",
        b"Host:",
        b"Host: 127.0.0.1\r\nHost: evil.invalid",
        b"Host: 127.0.0.1\r\nOrigin: http://[",
        b"Host: 127.0.0.1\r\nOrigin: \xff",
        b"Host: 127.0.0.1\r\nReferer: http://[::1",
        b"X: no host",
    ],
)
def test_what_no_url_can_be_made_of_is_refused_and_no_failure(address: tuple[str, int], lines: bytes) -> None:
    for version in (b"1.1", b"1.0"):
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(b"GET / HTTP/" + version + b"\r\n" + lines + b"\r\nConnection: close\r\n\r\n")
            assert connection.makefile("rb").readline().split()[1] in (b"400", b"403")


def test_queries_and_pages_are_there_for_gets_and_pages_for_links(dagster: Dagster) -> None:
    client = dagster.client
    assert client.get("/graphql", params={"query": "{ version }"}).json()["data"].keys() == {"version"}
    assert client.get("/graphql", params={"query": "{"}).status_code == 400
    assert "graphiql" in client.get("/graphql", headers={"accept": "text/html"}).text
    for headers in (CLICK, {}):
        page = client.get("/assets/completion_report", headers=headers)
        assert page.status_code == 200
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        assert "script-src" in page.headers["Content-Security-Policy"]
        assert client.get("/notebook", params={"path": "/x.ipynb"}, headers=headers).text[:9] == page.text[:9]


def test_a_socket_executes_subscriptions_only_and_for_our_own_pages_only(dagster: Dagster) -> None:
    address = "ws://127.0.0.1:3000/graphql"
    for headers in FOREIGN:
        with pytest.raises(WebSocketDisconnect), dagster.client.websocket_connect(address, headers=headers):
            pass
    with dagster.client.websocket_connect(address, headers={"origin": "http://127.0.0.1:3000"}) as socket:
        socket.send_json({"type": "connection_init"})
        assert socket.receive_json() == {"type": "connection_ack"}
        socket.send_json({"type": "start", "id": "1", "payload": {"query": mutation("socket")}})
        assert socket.receive_json()["type"] in ("error", "data")
    assert dagster.changes() == set()


@pytest.mark.parametrize(
    ("document", "reads"),
    [
        ("{ version }", True),
        ("query a { version } query b { version }", True),
        ("mutation { a }", False),
        ("subscription { a }", False),
        ("{ version } mutation b { a }", False),
        ("fragment f on Mutation { a }", True),
        ("not GraphQL", True),
        ("", True),
    ],
)
def test_a_document_reads_if_all_its_operations_do(document: str, reads: bool) -> None:
    assert only_reads(document) is reads


def test_named_hosts_reach_pages_graphql_and_metrics_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCEVAL_UI_HOSTS", "doceval.example.org,10.0.0.7")
    monkeypatch.setenv("DOCEVAL_HOME", str(tmp_path / "home"))
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        WorkspaceProcessContext(instance, workspace_load_target=EmptyWorkspaceTarget()) as context,
    ):
        app = Webserver(context).create_asgi_app()
        for base, status in (
            ("https://doceval.example.org", 200),
            ("http://10.0.0.7:3000", 200),
            ("http://127.0.0.1:3000", 200),
            ("http://10.0.0.8:3000", 403),
        ):
            client = TestClient(app, base)
            assert client.get("/server_info").status_code == status
            assert client.get("/metrics").status_code == status
            asked = client.post("/graphql", json={"query": "{ version }"}, headers={"origin": base})
            assert asked.status_code == status


def test_a_host_that_is_none_ends_the_webserver_in_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "doceval_pipeline.defs.webserver", "--help"],
        env={**os.environ, "DOCEVAL_UI_HOSTS": "*"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert ended.stderr.startswith("DOCEVAL_UI_HOSTS contains '*'")
