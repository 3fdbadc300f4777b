"""In Firefox no page of another site makes the webserver change something, and Dagster's own pages work."""

import time
from pathlib import Path

import pytest
from dagster_webserver.webserver import DagsterWebserver

from doceval_pipeline_tests.cli.running import until
from doceval_pipeline_tests.hostile_pages import ELEMENTS, judge, site, target
from doceval_pipeline_tests.outsiders.firefox import firefox

pytestmark = pytest.mark.outsiders

# Firefox knows no such element, or waits for an idle hour.
NOT_SENT = {
    "link manifest",
    "link prefetch",
    "link prefetch document",
    "link prerender",
    "speculation prefetch",
    "speculation prerender",
}
EXECUTED = {"object", "embed", "img", "fetch post", "form text", "redirect object"}


def test_no_element_of_a_foreign_page_changes_anything(tmp_path: Path) -> None:
    with (
        target(tmp_path / "ours") as ours,
        target(tmp_path / "dagsters", DagsterWebserver) as dagsters,
        site((ours, ELEMENTS), (dagsters, EXECUTED)) as foreign,
        firefox(*foreign.addresses()),
    ):
        judge(ours, dagsters, ELEMENTS.keys() - NOT_SENT, EXECUTED, lambda: time.sleep(0.2))


def test_the_pages_of_dagster_work(tmp_path: Path) -> None:
    with target(tmp_path / "ours") as ours, firefox(f"http://127.0.0.1:{ours.port}/runs"):
        requests = ours.noting.own
        until(lambda: {("POST", 200), ("socket", 0)} <= {(one.method, one.status) for one in requests})
        assert [one for one in requests if one.status in (403, 405, 500)] == []
