"""Commands in environments that were made for something else: they work, or say in one line why not."""

import http.server
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.cli.supervision import loopback
from doceval_pipeline.dagster_home.configuration import require_limits
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import LONGEST_HOME, Settings
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, read_json, write_evaluation
from doceval_pipeline_tests.embedded.test_parameters import LIBPQ

PROXIES = dict.fromkeys(
    ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy"),
    "http://127.0.0.1:9",
)
ODD = {
    "LANG": "odd",
    "LC_ALL": "odd",
    "TZ": "Nowhere/Land",
    "TERM": "",
    "COLUMNS": "0",
    "HOME": "/nowhere",
    "TMPDIR": "/nowhere",
    "XDG_RUNTIME_DIR": "nowhere",
    "PATH": "",
    "SHELL": "/nowhere",
    "PYTHONIOENCODING": "ascii",
    "PYTHONPATH": "/nowhere",
    "PYTHONSTARTUP": "/nowhere",
    "NO_PROXY": "[::,",
    "SSL_CERT_FILE": "/nowhere",
    "DAGSTER_HOME": "nowhere",
}
# What a shell, libpq, a URL, a configuration file or a terminal takes for something else.
ODD_HOME = """a, "b" $(touch pwned) `touch pwned` 'c' %41 \\ é *?[d] ; & | # ~ + = @ : {} """


@pytest.fixture
def odd_home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / ODD_HOME
    yield home
    EmbeddedServer(home).stop()


def test_everything_odd_at_once_changes_nothing(odd_home: Path) -> None:
    environment = {**LIBPQ, **PROXIES, **ODD, "DOCEVAL_HOME": str(odd_home)}
    made = doceval("init", **environment)
    assert (made.returncode, made.stderr) == (0, "")
    # What the encoding lacks is replaced where a person reads, and kept where a program does.
    assert ODD_HOME.replace("é", "?").strip() in made.stdout
    assert read_json("status", **environment) == []
    given = {**os.environ, **environment}
    exports = subprocess.run([DOCEVAL, "env"], capture_output=True, check=True, env=given).stdout
    read = subprocess.run(
        ["sh", "-ec", 'eval "$1"; printf %s "$DOCEVAL_HOME"', "sh", exports], check=True, capture_output=True
    )
    assert os.fsdecode(read.stdout) == str(odd_home)


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("DOCEVAL_HOME", "/tmp/a\nb", "contains a control character"),
        ("DOCEVAL_HOME", "/tmp/\x1b[31m", "contains a control character"),
        ("DOCEVAL_HOME", "/tmp" + "/long" * 200, f"PostgreSQL accepts {LONGEST_HOME}"),
        ("DOCEVAL_HOME", "~nosuchuser/x", "no home folder is known"),
    ],
)
def test_a_home_that_cannot_be_is_refused(variable: str, value: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refusal:
        Settings.from_environment({variable: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "1e3", "", "٣", "9" * 30])
def test_limits_of_dagster_s_that_are_no_numbers_are_refused_by_name(value: str) -> None:
    require_limits({"DAGSTER_GRPC_TIMEOUT_SECONDS": "60", "OTHER_GRPC_TIMEOUT_SECONDS": value})
    for name in ("DAGSTER_GRPC_TIMEOUT_SECONDS", "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS"):
        with pytest.raises(ConfigurationError, match=f"{name} is .*: write a whole number of seconds"):
            require_limits({name: value})


def test_a_refusal_comes_at_once_and_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    started = time.monotonic()
    refused = doceval("init", DOCEVAL_HOME=str(tmp_path / "file" / "x"))
    assert time.monotonic() - started < 60, "it waits for a server"
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "cannot use" in refused.stderr


def test_a_terminal_without_our_characters_shows_question_marks(databases: object, tmp_path: Path) -> None:
    name = "名前 → Bärte ━ 😀"
    for encoding, shown in {"ascii": "?? ? B?rte ? ?", "latin-1": "?? ? Bärte ? ?"}.items():
        file = write_evaluation(tmp_path, name, documents=1)
        arguments = ["apply", str(file)] if encoding == "ascii" else ["status"]
        for command, ends in ((arguments, 0), (["status", name + "x"], 1)):
            ended = subprocess.run(
                [DOCEVAL, *command],
                env={**os.environ, "PYTHONIOENCODING": encoding},
                capture_output=True,
                check=False,
            )
            assert ended.returncode == ends
            assert shown in (ended.stderr if ends else ended.stdout).decode(encoding)
            # An apply warns that one document tells no models apart.
            assert len(ended.stderr.splitlines()) == ends + (command[0] == "apply")


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        ("<&-", 0, ""),
        (">&-", 1, "cannot write the output: it is closed\n"),
        ("<&- >&- 2>&-", 1, ""),
        ("2>&-", 0, ""),
    ],
)
def test_a_closed_stream_does_no_harm_and_lost_output_is_said(
    databases: object, closed: str, code: int, said: str
) -> None:
    ended = subprocess.run(
        ["sh", "-c", f'"$0" status {closed}', DOCEVAL], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (code, said)


@pytest.mark.parametrize("columns", ["0", "9" * 15])
def test_any_number_of_columns_shows_all_of_a_line(databases: object, columns: str) -> None:
    assert "KnowledgeDocuments" in doceval("init", COLUMNS=columns).stdout


def test_the_webserver_is_asked_directly_whatever_proxy_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_proxy", "[::")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert loopback.answers(f"http://127.0.0.1:{server.server_port}/", 30)
