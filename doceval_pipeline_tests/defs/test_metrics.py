"""The page /metrics shows what both databases and Dagster hold, and survives a database that is down."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from doceval_pipeline.batches.monitoring.figures import OpenCounts
from doceval_pipeline.definitions import SENSORS as DEFINED
from doceval_pipeline.defs import metrics
from doceval_pipeline.defs.metrics import MOST_CONNECTIONS, OTHERS, SENSORS, WEBHOOK_SENSOR, Metrics, Readings
from doceval_pipeline.domain.metrics import OpenFigures
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.fresh_clone import PROJECT

BatchOf = Callable[..., Sample]
Page = dict[str, dict[tuple[str, ...], float]]
DASHBOARD = PROJECT / "deploy" / "grafana-dashboard.json"
DOWN = "postgresql+psycopg2://user:s3cret-word@127.0.0.1:1/none"


def read(settings: Settings) -> tuple[Page, str]:
    """The values by name of the metric and by its labels, and the page itself."""
    app = Starlette(routes=[Route("/metrics", Metrics(settings).endpoint)])
    answer = TestClient(app).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    page: Page = {}
    for family in text_string_to_metric_families(answer.text):
        page[family.name] = {tuple(s.labels.values()): s.value for s in family.samples}
    return page, answer.text


@pytest.mark.usefixtures("instance")
def test_the_page_counts_evaluations_by_state_and_connection(settings: Settings, batch_of: BatchOf) -> None:
    batch = batch_of(documents=3, connections=2, prompts=1)
    batch.stage()
    done = batch_of(name="done", documents=1, connections=1, prompts=1)
    done.stage()
    done.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 7 WHERE batch_id = :id")
    done.doc_eval(
        "UPDATE batches SET status = 'COMPLETED', completed_at = now() - interval '50 s' WHERE id = :id"
    )
    batch.knowledge("UPDATE llm_responses SET created_at = now() - interval '90 s' WHERE batch_id = :id")
    batch.knowledge("SELECT * FROM claim_responses(2, interval '1 minute', 'worker')")
    first = "SELECT min(id) FROM llm_responses WHERE status = 'QUEUED' AND batch_id = :id"
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', completed_processing_at = now() - interval '9 s' "
        f"WHERE id = ({first})"
    )
    page, _ = read(settings)
    assert page["doceval_up"] == {("doc_eval",): 1, ("KnowledgeDocuments",): 1, ("dagster",): 1}
    counts = page["doceval_evaluations"]
    assert {state: counts[state,] for state in ("waiting", "running", "failed", "succeeded")} == {
        "waiting": 3,
        "running": 2,
        "failed": 1,
        "succeeded": 1,
    }
    by_connection = page["doceval_open_evaluations"]
    assert {connection for connection, _ in by_connection} == {"model-0", "model-1"}
    assert sum(by_connection.values()) == 6
    assert page["doceval_leases"] == {("active",): 2, ("expired",): 0}
    assert 90 <= page["doceval_oldest_waiting_seconds"][()] < 120
    assert 9 <= page["doceval_seconds_since_last_result"][()] < 39
    assert 50 <= page["doceval_seconds_since_last_completion"][()] < 80
    assert page["doceval_batches"]["COMPLETED",] == 1


def test_an_installation_without_batches_has_a_page(databases: object, settings: Settings) -> None:
    page, _ = read(settings)
    assert set(page["doceval_evaluations"].values()) == {0}
    assert page["doceval_oldest_waiting_seconds"][()] == 0
    assert "doceval_seconds_since_last_result" not in page


@pytest.mark.parametrize(
    ("attribute", "name", "missing"),
    [
        ("doc_eval_url", "doc_eval", "doceval_batches"),
        ("knowledge_documents_url", "KnowledgeDocuments", "doceval_evaluations"),
        ("dagster_url", "dagster", "doceval_runs"),
    ],
)
@pytest.mark.usefixtures("databases", "instance")
def test_a_database_that_is_down_leaves_the_figures_of_the_others(
    settings: Settings, attribute: str, name: str, missing: str
) -> None:
    page, text = read(replace(settings, **{attribute: DOWN}))
    assert {word for (word,), value in page["doceval_up"].items() if not value} == {name}
    every = {"doceval_batches", "doceval_evaluations", "doceval_runs"}
    assert every - page.keys() == {missing}
    assert "s3cret" not in text


@pytest.mark.usefixtures("databases")
def test_the_page_starts_no_server_and_writes_nothing(settings: Settings, tmp_path_factory: object) -> None:
    home = settings.home.parent / "nothing-here"
    page, _ = read(replace(settings, home=home))
    assert set(page["doceval_up"].values()) == {0}
    assert not home.exists()


def test_a_reading_that_hangs_is_left_out_in_time_and_is_not_begun_again() -> None:
    readings, begun, end = Readings(), [], Event()

    def hang() -> None:
        begun.append(1)
        end.wait(60)

    began = time.monotonic()
    for _ in range(3):
        assert readings.read({"stuck": hang, "other": lambda: 7}, 0.2) == {"stuck": None, "other": 7}
    assert time.monotonic() - began < 30
    end.set()
    assert begun == [1]


def test_counting_by_connection_rests_longer_than_it_takes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, batch_of: BatchOf
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    clock = [0.0]
    monkeypatch.setattr("doceval_pipeline.batches.monitoring.figures.time.monotonic", lambda: clock[0])
    counts = OpenCounts()
    first = counts.read(settings)
    assert first is not None
    assert counts.read(settings) is not first
    # A count that took a second is repeated for twenty.
    times = iter((10.0, 11.0, 30.9, 31.1, 31.1))
    monkeypatch.setattr("doceval_pipeline.batches.monitoring.figures.time.monotonic", lambda: next(times))
    slow = counts.read(settings)
    assert counts.read(settings) is slow
    assert counts.read(settings) is not slow


def test_names_of_connections_are_bounded_and_hide_keys() -> None:
    key = "sk-proj-abcdefgh1234567890abcd"
    many = {("waiting", f"model-{n}"): n + 1 for n in range(MOST_CONNECTIONS + 10)}
    bounded = metrics._bounded(
        OpenFigures(many | {("failed", key): 10**6, ("failed", "x" * 900): 10**6}, None)
    )
    names = {name for _, name in bounded}
    assert len(names) == MOST_CONNECTIONS + 1
    assert OTHERS in names
    assert max(map(len, names)) <= 100
    assert key not in names
    assert sum(bounded.values()) == sum(many.values()) + 2 * 10**6


def test_the_lag_is_shown_of_exactly_the_sensors_of_the_project() -> None:
    assert set(SENSORS) == {sensor.name for sensor in DEFINED} | {WEBHOOK_SENSOR}


def sensor_state(name: str, seconds_ago: float, status: object) -> object:
    from dagster._core.remote_origin import RemoteInstigatorOrigin, RemoteRepositoryOrigin
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorType, SensorInstigatorData
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="x"), location_name="here")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
    data = SensorInstigatorData(last_tick_timestamp=time.time() - seconds_ago, min_interval=5)
    return InstigatorState(origin, InstigatorType.SENSOR, status, data)  # type: ignore[arg-type]


def test_a_sensor_lags_by_what_exceeds_its_interval(settings: Settings, instance: dg.DagsterInstance) -> None:
    from dagster._core.scheduler.instigation import InstigatorStatus

    running, stopped = InstigatorStatus.DECLARED_IN_CODE, InstigatorStatus.STOPPED
    for name, seconds, status in (
        ("response_status", 65, running),
        ("new_batches", 2, running),
        ("dead_runs", 65, stopped),
        ("a_sensor_of_others", 65, running),
    ):
        instance.add_instigator_state(sensor_state(name, seconds, status))  # type: ignore[arg-type]
    try:
        page, _ = read(settings)
        lags = page["doceval_sensor_lag_seconds"]
        assert lags.keys() == {("response_status",), ("new_batches",)}
        assert 60 <= lags["response_status",] < 90
        assert lags["new_batches",] < 30
        assert page["doceval_runs"].keys() >= {("QUEUED",), ("STARTED",), ("FAILURE",)}
    finally:
        for state in instance.all_instigator_state():
            instance.schedule_storage.delete_instigator_state(  # type: ignore[union-attr]
                state.instigator_origin_id, state.selector_id
            )


@pytest.mark.usefixtures("instance")
def test_the_dashboard_asks_only_for_metrics_and_labels_of_the_page(
    settings: Settings, batch_of: BatchOf
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    _, text = read(settings)
    # Those that are absent from a page of an installation at rest.
    documented = set(re.findall(r"`(doceval_\w+)", (PROJECT / "docs" / "operations.md").read_text()))
    present = set(re.findall(r"^# HELP (doceval_\w+)", text, re.MULTILINE))
    assert present <= documented
    labels = set(re.findall(r'[{,](\w+)="', text)) | {"sensor", "daemon"}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) >= 8
    asked = {name for query in queries for name in re.findall(r"doceval_\w+", query)}
    assert asked == documented
    by = {
        name.strip()
        for q in queries
        for names in re.findall(r"by \(([^)]*)\)", q)
        for name in names.split(",")
    }
    shown = {
        name
        for panel in panels
        for target in panel.get("targets", ())
        for name in re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))
    }
    assert by | shown <= labels
