"""The table of states: complete, without dead ends, and obeyed by the one statement that changes them."""

from collections.abc import Callable

import pytest

from doceval_pipeline.doc_eval.lifecycle import TRANSITIONS, Action, Status, transition
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
ALLOWED = {(old, action): new for old, action, new in TRANSITIONS}


def test_no_state_has_two_answers_to_one_action() -> None:
    assert len(ALLOWED) == len(TRANSITIONS)


def test_every_state_can_be_reached_and_left() -> None:
    reached, left = {new for _, _, new in TRANSITIONS}, {old for old, _, _ in TRANSITIONS}
    assert set(Status) == reached
    assert set(Status) == left


@pytest.mark.parametrize("action", list(Action))
def test_an_action_changes_exactly_the_states_that_the_table_names(batch_of: BatchOf, action: Action) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    for old in Status:
        batch.doc_eval("UPDATE batches SET status = :status WHERE id = :id", status=old.value)
        with batch.databases.doc_eval.begin() as connection:
            assert transition(connection, batch.id, action) == ALLOWED.get((old, action))
        assert batch.status() == ALLOWED.get((old, action), old)


def test_a_reason_is_kept_until_the_next_change(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    with batch.databases.doc_eval.begin() as connection:
        transition(connection, batch.id, Action.FAIL_STAGING, "the folder is gone")
    assert batch.doc_eval("SELECT failure_reason FROM batches WHERE id = :id") == [("the folder is gone",)]
    batch.stage()
    assert batch.doc_eval("SELECT failure_reason, started_at IS NOT NULL FROM batches") == [(None, True)]
