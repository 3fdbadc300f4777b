"""A cursor that was edited or lost counts as an empty one."""

import json
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doceval_pipeline.defs import leaderboard, sensors
from doceval_pipeline.defs.cursors import Cursor, ResponseStatusCursor, StalledWorkCursor
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import tick

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["seen", "told"]), inner),
)
JUNK = [
    "",
    "null",
    "[]",
    "{",
    '{"seen": "x"}',
    '{"seen": 1e400}',
    '{"told": {"x": 1}}',
    '{"seen": -1}',
    "\0",
    "5",
]


@pytest.mark.parametrize("kind", [ResponseStatusCursor, StalledWorkCursor])
@given(text=st.text() | JSON.map(json.dumps))
@example(text="[" * 100_000)
@example(text='{"seen": ' + "9" * 5000 + "}")
@example(text='{"told": {"' + "9" * 30 + '": "x"}}')
@example(text='{"movements": {"1": "flying"}}')
def test_any_text_is_a_cursor_or_an_empty_one(kind: type[Cursor], text: str) -> None:
    found = kind.read(text)
    assert kind.read(found.write()) == found


@given(seen=st.integers(0, 2**63 - 1), told=st.dictionaries(st.integers(1, 2**31 - 1), st.text(max_size=64)))
def test_what_was_written_is_read(seen: int, told: dict[int, str]) -> None:
    cursor = ResponseStatusCursor(seen=seen, told=told)
    assert ResponseStatusCursor.read(cursor.write()) == cursor


@pytest.mark.parametrize("junk", [*JUNK, '{"seen": 9223372036854775807}'])
def test_a_completion_is_recorded_and_reported_whatever_the_cursor_says(
    batch_of: Callable[..., Sample], instance: dg.DagsterInstance, junk: str
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    found = tick(sensors.response_status, instance, junk)
    assert [event.partition for event in found.asset_events] == [batch.key]
    assert [request.partition_key for request in found.run_requests] == [batch.key]
    # The next one goes on from there.
    again: Any = tick(sensors.response_status, instance, found.cursor)
    assert not again.asset_events


@pytest.mark.parametrize("junk", JUNK)
def test_an_open_batch_is_judged_whatever_the_cursor_says(
    batch_of: Callable[..., Sample], instance: dg.DagsterInstance, junk: str
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    tick(sensors.response_status, instance)
    found = tick(sensors.stalled_work, instance, junk)
    assert [event.partition for event in found.asset_events] == [batch.key]


@pytest.mark.parametrize("junk", JUNK)
def test_no_leaderboard_of_nothing_is_asked_for(
    databases: Any, instance: dg.DagsterInstance, junk: str
) -> None:
    assert not tick(leaderboard.fresh_leaderboard, instance, junk).run_requests
