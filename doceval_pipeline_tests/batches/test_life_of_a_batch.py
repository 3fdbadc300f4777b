"""Any order of actions, outside writes and ticks, against a plain model that knows no database.

The model is what the documentation promises, in a few lines of Python. After each step the rows and
the state of the batch must be those of the model, and the audit must find nothing.
"""

import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from doceval_pipeline.batches.audit import violations
from doceval_pipeline.batches.completion import look
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.reporting import write_report
from doceval_pipeline.batches.reprocessing import Mode, cancel, pause, reprocess, resume
from doceval_pipeline.doc_eval.apply import apply_evaluation
from doceval_pipeline.errors import BatchStateError, StagingError
from doceval_pipeline.knowledge.status_words import WORDS
from doceval_pipeline_tests.batches.archives import bring_back, holdings, put_away
from doceval_pipeline_tests.conftest import EMPTY_DOC_EVAL, EMPTY_KNOWLEDGE, Sample, evaluation_of, write_old

OUTCOMES = {word: outcome.value for outcome, words in WORDS.items() for word in words}
CELLS = list(product(range(2), range(1)))  # prompts, connections
NAMES, CONTENTS = st.sampled_from("abc"), st.sampled_from(["one", "two", "three"])
ROWS = """
    SELECT convert_from(decode(d.content, 'base64'), 'UTF8'), r.prompt_id, r.connection_id, r.attempt,
           r.status, r.withdrawn_at IS NOT NULL
    FROM llm_responses r JOIN docs d ON d.id = r.document_id WHERE r.batch_id = :id
"""
CLOSED = ("COMPLETED", "FAILED")
# A write from outside makes these false until the next tick.
UNTIL_THE_NEXT_TICK = {
    "a completed batch has no open cell",
    "a completed batch was completed with the results it has",
}


def outcome(word: str) -> str:
    return OUTCOMES.get(word, "unknown")


class LifeOfABatch(RuleBasedStateMachine):
    databases: Databases

    def __init__(self) -> None:
        super().__init__()
        with self.databases.doc_eval.begin() as connection:
            connection.execute(EMPTY_DOC_EVAL)
        with self.databases.knowledge.begin() as connection:
            connection.execute(EMPTY_KNOWLEDGE)
        self.folder = tempfile.TemporaryDirectory()
        located = evaluation_of([{"name": "life", "folders": [self.folder.name]}], connections=1, prompts=2)
        number = apply_evaluation(self.databases.doc_eval, located).numbers["life"]
        self.batch = Sample(self.databases, number, "life", Path(self.folder.name))
        self.files: dict[str, str] = {}
        self.assigned: dict[str, str] = {}
        self.rows: dict[tuple[str, int, int, int], str] = {}
        self.status, self.cancelled = "SAVED", False
        self.write_file("a", "one")
        connection_ids = [row[0] for row in self.batch.doc_eval("SELECT id FROM connections ORDER BY id")]
        prompt_ids = [row[0] for row in self.batch.doc_eval("SELECT id FROM prompts ORDER BY id")]
        self.cells = [(prompt_ids[p], connection_ids[c]) for p, c in CELLS]

    def teardown(self) -> None:
        self.folder.cleanup()

    # The model

    def current(self) -> dict[tuple[str, int, int], tuple[int, str]]:
        """Attempt and word of each cell of the batch's contents."""
        found: dict[tuple[str, int, int], tuple[int, str]] = {}
        for (content, prompt, connection, attempt), word in sorted(self.rows.items()):
            if content in self.assigned.values():
                found[content, prompt, connection] = (attempt, word)
        return found

    def reopen(self) -> None:
        if self.status in CLOSED:
            self.status, self.cancelled = "STAGED", False

    def add_missing(self) -> None:
        current = self.current()
        missing = [
            (c, *cell)
            for c in set(self.assigned.values())
            for cell in self.cells
            if (c, *cell) not in current
        ]
        self.rows |= {(*cell, 1): "QUEUED" for cell in missing}
        if missing:
            self.reopen()

    def count(self) -> dict[str, int]:
        words = [outcome(word) for _, word in self.current().values()]
        return {kind: words.count(kind) for kind in words}

    # Actions

    @rule(name=NAMES, content=CONTENTS)
    def write_file(self, name: str, content: str) -> None:
        write_old(self.batch.folder / name, content)
        self.files[name] = content

    @precondition(lambda self: len(self.files) > 1)
    @rule(data=st.data())
    def delete_file(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        (self.batch.folder / name).unlink()
        del self.files[name]

    @rule()
    def stage(self) -> None:
        if self.status == "PAUSED":
            with pytest.raises(StagingError):
                self.batch.stage()
            return
        self.batch.stage()
        if self.status == "SAVED":
            self.status, self.assigned = "STAGED", dict(self.files)
        self.add_missing()

    # Most lives begin staged, where there is more to find.
    @initialize(staged=st.sampled_from([True, True, True, False]))
    def begin(self, staged: bool) -> None:
        if staged:
            self.stage()

    @rule(name=NAMES, content=CONTENTS)
    def change_file_and_look_again(self, name: str, content: str) -> None:
        self.write_file(name, content)
        self.reprocess(Mode.missing, True)

    # The rarer moments that matter are made frequent.
    @precondition(lambda self: self.status not in ("SAVED", "PAUSED"))
    @rule()
    def reprocess_failed(self) -> None:
        self.reprocess(Mode.failed, False)

    @precondition(lambda self: self.status == "PAUSED")
    @rule()
    def resume_soon(self) -> None:
        self.resume()

    @precondition(lambda self: self.status != "SAVED")
    @rule(word=st.sampled_from(["S", "F"]))
    def finish_and_tick(self, word: str) -> None:
        self.finish_all(word)
        self.tick()

    @rule(mode=st.sampled_from(list(Mode)), new_look=st.booleans())
    def reprocess(self, mode: Mode, new_look: bool) -> None:
        def act() -> None:
            reprocess(self.databases, self.batch.id, mode, lambda *_: None, new_look)

        if self.status in ("SAVED", "PAUSED"):
            with pytest.raises(BatchStateError):
                act()
            return
        act()
        if new_look:
            self.assigned = dict(self.files)
        self.add_missing()
        again = {Mode.missing: (), Mode.failed: ("failed",), Mode.all: ("failed", "succeeded")}[mode]
        for cell, (attempt, word) in self.current().items():
            if outcome(word) in again:
                self.rows[*cell, attempt + 1] = "QUEUED"
                self.reopen()

    @rule()
    def pause(self) -> None:
        if self.status not in ("STAGED", "ANALYZING", "PAUSED"):
            with pytest.raises(BatchStateError):
                pause(self.databases, self.batch.id)
            return
        pause(self.databases, self.batch.id)
        self.status = "PAUSED"
        self.rows = {k: "PAUSED" if outcome(word) == "waiting" else word for k, word in self.rows.items()}

    @rule()
    def resume(self) -> None:
        if self.status != "PAUSED":
            with pytest.raises(BatchStateError):
                resume(self.databases, self.batch.id)
            return
        resume(self.databases, self.batch.id)
        self.status = "STAGED"
        self.rows = {k: "QUEUED" if outcome(word) == "paused" else word for k, word in self.rows.items()}

    @rule()
    def cancel(self) -> None:
        closed = {k for k, word in self.rows.items() if outcome(word) in ("waiting", "paused")}
        if self.status not in ("STAGED", "ANALYZING", "PAUSED") or not closed:
            with pytest.raises(BatchStateError):
                cancel(self.databases, self.batch.id)
            return
        assert cancel(self.databases, self.batch.id) == len(closed)
        self.status, self.cancelled = "ANALYZING", True
        self.rows |= dict.fromkeys(closed, "F")

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), word=st.sampled_from([*OUTCOMES, "HALF"]))
    def write_from_outside(self, data: st.DataObject, word: str) -> None:
        row = data.draw(st.sampled_from(sorted(self.rows)))
        content, prompt, connection, attempt = row
        self.batch.knowledge(
            "UPDATE llm_responses r SET status = :word FROM docs d "
            "WHERE d.id = r.document_id AND batch_id = :id "
            "AND d.content = encode(convert_to(:content, 'UTF8'), 'base64') AND prompt_id = :prompt "
            "AND connection_id = :connection AND attempt = :attempt",
            word=word,
            content=content,
            prompt=prompt,
            connection=connection,
            attempt=attempt,
        )
        self.rows[row] = word

    @precondition(lambda self: self.rows)
    @rule(word=st.sampled_from(["S", "F"]))
    def finish_all(self, word: str) -> None:
        self.batch.knowledge("UPDATE llm_responses SET status = :word WHERE batch_id = :id", word=word)
        self.rows = dict.fromkeys(self.rows, word)

    @rule()
    def tick(self) -> None:
        look(self.databases)
        count = self.count()
        if self.status == "SAVED":
            return
        if set(count) <= {"succeeded", "failed"}:
            self.status = "FAILED" if self.cancelled or not count.get("succeeded") else "COMPLETED"
        elif self.status in CLOSED:
            self.reopen()
        elif self.status == "STAGED" and set(count) - {"waiting", "paused"}:
            self.status = "ANALYZING"
        assert {v.invariant for v in self.audit()} == set()

    @precondition(lambda self: self.status != "SAVED")
    @rule()
    def report(self) -> None:
        figures = write_report(self.databases, self.batch.id).figures
        count = self.count()
        assert (figures.cells.succeeded, figures.cells.failed) == (
            count.get("succeeded", 0),
            count.get("failed", 0),
        )
        assert figures.cells.rows == figures.cells.expected == len(self.current())

    @rule()
    def archive_and_restore(self) -> None:
        # Archiving looks first; a batch that was just opened again then has begun.
        self.tick()
        self.tick()
        if self.status not in CLOSED:
            with pytest.raises(BatchStateError):
                put_away(self.batch)
            return
        before = holdings(self.batch)
        archived = put_away(self.batch)
        assert self.batch.knowledge("SELECT count(*) FROM docs") == [(0,)]
        assert self.audit() == []
        with pytest.raises(BatchStateError):
            self.batch.stage()
        look(self.databases)
        bring_back(self.batch, archived)
        after = holdings(self.batch)
        # The report that is in the archive was perhaps not written before.
        assert after | {"batches": []} == before | {"batches": []}

    # What must hold after every step

    def audit(self) -> list[Any]:
        return list(violations(self.databases, True, lambda *_: None))

    @invariant()
    def the_rows_are_those_of_the_model(self) -> None:
        contents = set(self.assigned.values())
        assert sorted(tuple(row) for row in self.batch.knowledge(ROWS)) == sorted(
            (*key, word, key[0] not in contents) for key, word in self.rows.items()
        )

    @invariant()
    def the_state_is_that_of_the_model(self) -> None:
        assert self.batch.status() == self.status

    @invariant()
    def the_audit_finds_nothing(self) -> None:
        assert {v.invariant for v in self.audit()} <= UNTIL_THE_NEXT_TICK


def live(databases: Databases, lives: int, steps: int) -> None:
    LifeOfABatch.databases = databases
    run_state_machine_as_test(
        LifeOfABatch,
        settings=examples(
            max_examples=lives,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


def test_any_order_of_actions_gives_what_the_model_gives(databases: Databases) -> None:
    live(databases, lives=25, steps=40)


@pytest.mark.slow
def test_thousands_of_steps_give_what_the_model_gives(databases: Databases) -> None:
    live(databases, lives=100, steps=50)
