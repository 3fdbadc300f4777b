"""Any order of actions, claims, outside writes and ticks, against a plain model that knows no database.

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

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, cancel, pause, reprocess, resume
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.domain.evaluations import WORDS
from doceval_pipeline.errors import BatchStateError, StagingError
from doceval_pipeline_tests.batches.archiving.archives import archive_batch, holdings, restore_batch
from doceval_pipeline_tests.conftest import EMPTY_DOC_EVAL, EMPTY_KNOWLEDGE, Sample, evaluation_of, write_old

OUTCOMES = {word: outcome.value for outcome, words in WORDS.items() for word in words}
CELLS = list(product(range(2), range(1)))  # prompts, connections
NAMES, CONTENTS = st.sampled_from("abc"), st.sampled_from(["one", "two", "three"])
ROWS = """
    SELECT convert_from(decode(d.content, 'base64'), 'UTF8'), r.prompt_id, r.connection_id, r.attempt,
           r.status, r.withdrawn_at IS NOT NULL
    FROM llm_responses r JOIN docs d ON d.id = r.document_id WHERE r.batch_id = :id
"""
CONTENTS_BY_ID = "SELECT id, convert_from(decode(content, 'base64'), 'UTF8') FROM docs"
CLAIM = "SELECT token, document_id, prompt_id, connection_id, attempt FROM claim_responses(:rows, '1 hour')"
ANSWERS = {
    "S": "SELECT changed FROM complete_response(:token, 50)",
    "F": "SELECT changed FROM fail_response(:token, 'no')",
    "QUEUED": "SELECT changed FROM fail_response(:token, 'not now', retry => true)",
}
LOSE_PROCESSORS = """
    UPDATE llm_responses SET lease_expires_at = now() - interval '1 hour' WHERE lease_expires_at IS NOT NULL
"""
MOST_DELIVERIES = 5
CLOSED = ("COMPLETED", "FAILED")
Row = tuple[str, int, int, int]


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
        self.rows: dict[Row, str] = {}
        # Rows that were closed because their documents left the batch.
        self.closed: set[Row] = set()
        # Who holds which row, every token ever given, and what becomes of a row that goes back.
        self.leases: dict[Row, str] = {}
        self.tokens: list[tuple[str, Row]] = []
        self.deliveries: dict[Row, int] = {}
        self.requeue_as = "QUEUED"
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
        """New attempts are no part of a cancel before them."""
        if self.status in ("STAGED", "ANALYZING", *CLOSED):
            self.cancelled = False
        if self.status in CLOSED:
            self.status = "STAGED"

    def close_left(self, row: Row, word: str) -> str:
        """The word of a row that is about to get one: where its document left the batch, it does not wait."""
        if row[0] in self.assigned.values() or outcome(word) not in ("waiting", "paused"):
            return word
        self.closed.add(row)
        return "F"

    def add_missing(self) -> None:
        self.rows = {row: self.close_left(row, word) for row, word in self.rows.items()}
        for cell, (attempt, word) in self.current().items():
            if word == "F" and (*cell, attempt) in self.closed:
                self.rows[*cell, attempt + 1] = self.requeue_as = "QUEUED"
                self.reopen()
        current = self.current()
        missing = [
            (c, *cell)
            for c in set(self.assigned.values())
            for cell in self.cells
            if (c, *cell) not in current
        ]
        self.rows |= {(*cell, 1): "QUEUED" for cell in missing}
        if missing:
            self.requeue_as = "QUEUED"
            self.reopen()

    def written(self, row: Row, word: str) -> str:
        """The word of a row after a plain UPDATE to another one."""
        before = self.rows[row]
        if row in self.leases:
            return before
        if outcome(before) in ("succeeded", "failed"):
            return word if (outcome(before), outcome(word)) == ("failed", "succeeded") else before
        if outcome(word) == "waiting" and outcome(before) != "waiting" and self.requeue_as != "QUEUED":
            word = self.requeue_as
        return self.close_left(row, word)

    def give_back(self, row: Row) -> None:
        word = self.requeue_as if self.deliveries[row] < MOST_DELIVERIES else "F"
        self.rows[row] = self.close_left(row, word)
        del self.leases[row]

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

    @rule(mode=st.sampled_from(list(Mode)), rescan=st.booleans())
    def reprocess(self, mode: Mode, rescan: bool) -> None:
        def act() -> None:
            reprocess(self.databases, self.batch.id, mode, lambda *_: None, rescan=rescan)

        if self.status in ("SAVED", "PAUSED"):
            with pytest.raises(BatchStateError):
                act()
            return
        act()
        if rescan:
            self.assigned = dict(self.files)
        self.add_missing()
        again = {Mode.missing: (), Mode.failed: ("failed",), Mode.all: ("failed", "succeeded")}[mode]
        for cell, (attempt, word) in self.current().items():
            if outcome(word) in again:
                self.rows[*cell, attempt + 1] = self.requeue_as = "QUEUED"
                self.reopen()

    @rule()
    def pause(self) -> None:
        if self.status not in ("STAGED", "ANALYZING", "PAUSED") or self.is_done():
            with pytest.raises(BatchStateError):
                pause(self.databases, self.batch.id)
            self.complete_if_done()
            return
        pause(self.databases, self.batch.id)
        self.status = "PAUSED"
        self.requeue_as = "F" if self.cancelled else "PAUSED"
        self.rows = {k: "PAUSED" if outcome(word) == "waiting" else word for k, word in self.rows.items()}

    @rule()
    def resume(self) -> None:
        if self.status != "PAUSED":
            with pytest.raises(BatchStateError):
                resume(self.databases, self.batch.id)
            return
        resume(self.databases, self.batch.id)
        self.status = "STAGED"
        self.requeue_as = "F" if self.cancelled else "QUEUED"
        self.rows = {k: "QUEUED" if outcome(word) == "paused" else word for k, word in self.rows.items()}

    @rule()
    def cancel(self) -> None:
        closed = {k for k, word in self.rows.items() if outcome(word) in ("waiting", "paused")}
        if self.status not in ("STAGED", "ANALYZING", "PAUSED") or not closed:
            with pytest.raises(BatchStateError):
                cancel(self.databases, self.batch.id)
            self.complete_if_done()
            return
        assert cancel(self.databases, self.batch.id) == len(closed)
        self.status, self.cancelled, self.requeue_as = "ANALYZING", True, "F"
        self.rows |= dict.fromkeys(closed, "F")

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), word=st.sampled_from([*OUTCOMES, "HALF"]))
    def write_from_outside(self, data: st.DataObject, word: str) -> None:
        self.write_plainly(data.draw(st.sampled_from(sorted(self.rows))), word)

    def write_plainly(self, row: Row, word: str) -> None:
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
        self.rows[row] = self.written(row, word)

    @precondition(lambda self: self.rows)
    @rule(word=st.sampled_from(["S", "F"]))
    def finish_all(self, word: str) -> None:
        self.batch.knowledge("UPDATE llm_responses SET status = :word WHERE batch_id = :id", word=word)
        self.rows = {row: self.written(row, word) for row in self.rows}

    @precondition(lambda self: "QUEUED" in self.rows.values())
    @rule(rows=st.integers(1, 4))
    def claim(self, rows: int) -> None:
        waiting = {row for row, word in self.rows.items() if outcome(word) == "waiting"}
        contents = {row[0]: row[1] for row in self.batch.knowledge(CONTENTS_BY_ID)}
        claimed = self.batch.knowledge(CLAIM, rows=rows)
        assert len(claimed) == min(rows, len(waiting))
        for token, document, *cell in claimed:
            row: Row = (contents[document], *cell)
            assert row in waiting
            waiting.remove(row)
            self.rows[row], self.leases[row] = "P", token
            self.tokens.append((token, row))
            self.deliveries[row] = self.deliveries.get(row, 0) + 1

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), word=st.sampled_from(sorted(ANSWERS)))
    def answer(self, data: st.DataObject, word: str) -> None:
        # Of all tokens that were ever given; most are of leases that are over.
        token, row = data.draw(st.sampled_from(self.tokens))
        self.answer_with(token, row, word)

    def answer_with(self, token: str, row: Row, word: str) -> None:
        holds = self.leases.get(row) == token
        assert self.batch.knowledge(ANSWERS[word], token=token) == [(holds,)]
        if holds and word == "QUEUED":
            self.give_back(row)
        elif holds:
            self.rows[row] = word
            del self.leases[row]

    @precondition(lambda self: self.leases)
    @rule()
    def lose_processors_and_tick(self) -> None:
        self.batch.knowledge(LOSE_PROCESSORS)
        for row in list(self.leases):
            self.give_back(row)
        self.tick()

    # What runs goes back while the batch is held or cancelled; made frequent as well.
    @precondition(lambda self: self.status in ("STAGED", "ANALYZING") and "QUEUED" in self.rows.values())
    @rule(action=st.sampled_from(["pause", "cancel"]), how=st.sampled_from(["lost", "given back", "plain"]))
    def hold_while_rows_run(self, action: str, how: str) -> None:
        row = min(row for row, word in self.rows.items() if word == "QUEUED")
        if how == "plain":
            self.write_plainly(row, "P")
        else:
            self.claim(2)
        getattr(self, action)()
        if how == "plain":
            self.write_plainly(row, "READY_TO_RETRY")
        elif how == "lost":
            self.lose_processors_and_tick()
        else:
            self.answer_with(*self.tokens[-1], "QUEUED")

    def is_done(self) -> bool:
        return self.status != "SAVED" and set(self.count()) <= {"succeeded", "failed"}

    def complete_if_done(self) -> None:
        if self.status in ("STAGED", "ANALYZING", "PAUSED") and self.is_done():
            self.complete()

    def complete(self) -> None:
        self.status = "FAILED" if self.cancelled or not self.count().get("succeeded") else "COMPLETED"

    @rule()
    def tick(self) -> None:
        poll(self.databases)
        count = self.count()
        if self.status == "SAVED":
            return
        if self.is_done():
            self.complete()
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
                archive_batch(self.batch)
            return
        before = holdings(self.batch)
        archived = archive_batch(self.batch)
        assert self.batch.knowledge("SELECT count(*) FROM docs") == [(0,)]
        assert self.audit() == []
        with pytest.raises(BatchStateError):
            self.batch.stage()
        poll(self.databases)
        restore_batch(self.batch, archived)
        after = holdings(self.batch)
        # The report that is in the archive was perhaps not written before.
        assert after | {"batches": []} == before | {"batches": []}

    # What must hold after every step

    def audit(self) -> list[Any]:
        return list(audit_installation(self.databases, lambda *_: None, every_document=True))

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
        assert self.audit() == []


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
    live(databases, lives=12, steps=40)


@pytest.mark.slow
def test_thousands_of_steps_give_what_the_model_gives(databases: Databases) -> None:
    live(databases, lives=100, steps=50)
