"""The webserver serves the reports of this installation, and nothing else from their folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.report_files import batch_of_report
from doceval_pipeline.defs.cross_site import OwnPagesOnly
from doceval_pipeline.defs.report_pages import report_page
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import run

BatchOf = Callable[..., Sample]


@pytest.fixture
def client(instance: dg.DagsterInstance) -> Iterator[TestClient]:
    def page(request: Request) -> Response:
        return report_page(instance, request.method, request.path_params["name"])

    routes = [Route("/reports/{name:path}", page)]
    app = Starlette(routes=routes, middleware=[Middleware(OwnPagesOnly)])
    with TestClient(app, "http://127.0.0.1:3000") as opened:
        yield opened


def reported(batch: Sample, instance: dg.DagsterInstance, status: str = "S") -> Path:
    """The file of the report of a batch whose evaluations all have a status."""
    batch.knowledge("UPDATE llm_responses SET status = :status", status=status)
    poll(batch.databases)
    (event,) = run(instance, "report_batch", batch.key).get_asset_materialization_events()
    return Path(str(event.materialization.metadata["report"].value))


@pytest.fixture
def batch(batch_of: BatchOf) -> Sample:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    return batch


def test_every_report_that_was_made_here_is_served_and_may_reach_nothing(
    batch: Sample, instance: dg.DagsterInstance, client: TestClient
) -> None:
    first = reported(batch, instance, "F")
    second = reported(batch, instance, "S")
    assert first != second
    for file in (first, second):
        answer = client.get(f"/reports/{file.name}")
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        policy = answer.headers["content-security-policy"]
        assert "sandbox allow-scripts;" in policy
        assert "default-src 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].startswith("text/html")
        head = client.head(f"/reports/{file.name}")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(file.stat().st_size)


def test_a_report_that_an_earlier_version_named_after_its_results_is_served(
    batch: Sample, instance: dg.DagsterInstance, client: TestClient
) -> None:
    file = reported(batch, instance)
    earlier = file.with_name(f"{batch.key}-{'ab' * 8}.html")
    earlier.write_text("an earlier report")
    assert client.get(f"/reports/{earlier.name}").status_code == 404
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            "completion_report",
            partition=batch.key,
            metadata={"report": dg.MetadataValue.path(str(earlier)), "result_digest": "ab" * 8},
        )
    )
    assert client.get(f"/reports/{earlier.name}").text == "an earlier report"


def test_a_file_that_this_installation_did_not_make_is_not_served(
    batch: Sample, instance: dg.DagsterInstance, client: TestClient
) -> None:
    file = reported(batch, instance)
    other = file.with_name(f"{batch.key}-{'0' * 16}.html")
    other.write_text("from elsewhere")
    file.with_name("notes.html").write_text("private")
    unknown = (
        other.name,
        "notes.html",
        f"batch-900000-{file.name[-21:]}",
        f"{batch.key}-{file.name[-21:]}".upper(),
        f"{file.name}/",
        f"{file.name}%00",
        "",
    )
    for name in unknown:
        answer = client.get(f"/reports/{name}")
        assert answer.status_code == 404, name
        assert "from elsewhere" not in answer.text
        assert answer.text.count("\n") == 1
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_report_is_only_read(
    batch: Sample, instance: dg.DagsterInstance, client: TestClient, method: str
) -> None:
    file = reported(batch, instance)
    assert client.request(method, f"/reports/{file.name}").status_code == 405


def test_a_page_of_another_site_does_not_get_a_report(
    batch: Sample, instance: dg.DagsterInstance, client: TestClient
) -> None:
    file = reported(batch, instance)
    foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert client.get(f"/reports/{file.name}", headers=foreign).status_code == 403
    # Nor can it show one in a frame, which a browser calls navigation too.
    assert "frame-ancestors 'none'" in client.get(f"/reports/{file.name}").headers["content-security-policy"]


@pytest.mark.parametrize("what", ["nothing", "link", "folder", "pipe"])
def test_a_file_that_is_gone_is_reported_in_one_line(
    batch: Sample, instance: dg.DagsterInstance, client: TestClient, tmp_path: Path, what: str
) -> None:
    file = reported(batch, instance)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    file.unlink()
    make = {
        "nothing": lambda: None,
        "link": lambda: file.symlink_to(secret),
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
    }
    make[what]()
    answer = client.get(f"/reports/{file.name}")
    assert answer.status_code == 404
    assert answer.text.endswith(f"run doceval report {batch.id} to write the newest report again\n")
    assert answer.text.count("\n") == 1
    if what == "folder":
        file.rmdir()
    else:
        file.unlink(missing_ok=True)


def test_a_database_that_does_not_answer_is_reported_in_one_line(
    batch: Sample, instance: dg.DagsterInstance, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = reported(batch, instance)
    monkeypatch.setenv("DOC_EVAL_URL", "postgresql+psycopg2://me:secret@127.0.0.1:1/doc_eval")
    answer = client.get(f"/reports/{file.name}")
    assert answer.status_code == 503
    assert answer.text.startswith("DOC_EVAL_URL: cannot connect to doc_eval on 127.0.0.1:1")
    assert "secret" not in answer.text
    assert answer.text.count("\n") == 1


def test_names_of_reports_are_read_strictly() -> None:
    digest = "0123456789abcdef"
    assert batch_of_report(f"batch-000070-{digest}.html") == 70
    for name in (
        f"batch-70-{digest}.html",
        f"../reports/batch-000070-{digest}.html",
        f"./batch-000070-{digest}.html",
        f"batch-0000070-{digest}.html",
        f"batch-9999999999-{digest}.html",
        f"batch-٠٠٠٠٧٠-{digest}.html",
        f"batch-000070-{digest}.html\n",
        f"batch-000070-{digest.upper()}.html",
        f"batch-000070-{digest}0.html",
    ):
        assert batch_of_report(name) is None, name


def test_the_page_of_a_leaderboard_that_was_made_here_is_served_and_no_other(
    batch: Sample, instance: dg.DagsterInstance, client: TestClient
) -> None:
    reported(batch, instance)
    (event,) = run(instance, "refresh_leaderboard", None).get_asset_materialization_events()
    metadata = event.materialization.metadata
    file = Path(str(metadata["report"].value))
    assert str(metadata["open"].value).endswith(f"/reports/{file.name}")
    answer = client.get(f"/reports/{file.name}")
    assert (answer.status_code, answer.content) == (200, file.read_bytes())
    other = file.with_name(f"leaderboard-{'ab' * 8}.html")
    other.write_text("planted")
    refused = client.get(f"/reports/{other.name}")
    assert refused.status_code == 404
    assert "doceval leaderboard --open" in refused.text
    file.unlink()
    assert client.get(f"/reports/{file.name}").status_code == 404
