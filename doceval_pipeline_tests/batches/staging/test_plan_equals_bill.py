"""What a plan lists as new, reused and gone is what is then queued, reused and left out."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import text

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging.planning import plan, plan_occurrence
from doceval_pipeline.batches.staging.recurring import make_occurrence
from doceval_pipeline.batches.staging.reprocessing import Mode, reprocess, resume
from doceval_pipeline.batches.staging.steps import (
    assign_documents,
    queue_evaluations,
    seal_batch,
    store_documents,
)
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.doc_eval.recurring.stored import find_recurring
from doceval_pipeline.errors import StagingError
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import empty_databases, write_old

# The first two prompts, and the first two connections, ask the same question.
PROMPTS = {"clear": "Is it clear?", "clarity": "Is it clear?", "brief": "Is it brief?"}
CONNECTIONS: dict[str, dict[str, Any]] = {
    "model": {"provider": "openai", "model": "m"},
    "alias": {"provider": "openai", "model": "m"},
    "other": {
        "provider": "openai",
        "model": "n",
        "prices": {"input_per_million": 1e6, "output_per_million": 0, "currency": "EUR"},
    },
    "made up": {"provider": "simulation", "model": "m"},
}
TABLES = text("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
SEQUENCES = "SELECT string_agg(concat(sequencename, last_value), ' ' ORDER BY sequencename) FROM pg_sequences"
# How processors leave the rows of a batch: every third one is treated otherwise than the rest.
ENDS = {
    "waiting": "false, ''",
    "running": "id % 3 > 0, 'P'",
    "finished": "true, 'S'",
    "mixed": "true, CASE WHEN id % 3 = 0 THEN 'F' ELSE 'S' END",
    "simulated": "true, 'S'",
    "superseded": "true, 'S'",
    "archived": "true, 'S'",
}

files_in = st.dictionaries(
    st.sampled_from(["a.txt", "b.txt", "c.txt", "d/e.txt"]), st.integers(0, 4), min_size=1
)


def some(names: dict[str, Any]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(list(names)), min_size=1, max_size=2, unique=True)


choice = st.fixed_dictionaries(
    {
        "files": files_in,
        "prompts": some(PROMPTS),
        "connections": some(CONNECTIONS),
        "reuse": st.sampled_from(["finished", "finished", "nothing"]),
    }
)
earlier_batch = st.tuples(choice, st.sampled_from(list(ENDS)))
step = st.tuples(files_in, st.sampled_from(list(Mode)), st.booleans(), st.sampled_from(["mixed", "waiting"]))


def dump(databases: Databases) -> dict[str, Any]:
    """Everything that both databases hold."""
    held: dict[str, Any] = {}
    for engine in (databases.doc_eval, databases.knowledge):
        with engine.connect() as connection:
            tables = list(connection.scalars(TABLES))
            parts = [
                f"SELECT '{t}', md5(string_agg(t::text, '' ORDER BY t::text)) FROM {t} t" for t in tables
            ]
            for table, digest in connection.execute(text(" UNION ALL ".join(parts))):
                held[f"{engine.url.database}.{table}"] = digest
            held[f"{engine.url.database} sequences"] = connection.scalar(text(SEQUENCES))
    return held


def ask(databases: Databases, statement: str, **values: Any) -> list[Any]:
    with databases.knowledge.begin() as connection:
        result = connection.execute(text(statement), values)
        return list(result) if result.returns_rows else []


def write(folder: Path, files: dict[str, int]) -> None:
    for path in folder.rglob("*.txt"):
        path.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        # The content 0 is of a file that is of no use.
        write_old(folder / name, f"content {content}\n" * content)


def definitions() -> dict[str, Any]:
    return {
        "connections": [{"name": name, **keys} for name, keys in CONNECTIONS.items()],
        "prompts": [{"name": name, "text": asked} for name, asked in PROMPTS.items()],
    }


def apply(databases: Databases, folder: Path, name: str, **keys: Any) -> int:
    batch = {"name": name, "folders": [str(folder)], **keys}
    located = locate({**definitions(), "batches": [batch]}, None, key_path)
    return apply_evaluation(databases.doc_eval, located).numbers[name]


def stage(databases: Databases, number: int) -> None:
    seal_batch(databases, number)
    assign_documents(databases, number)
    store_documents(databases, number, lambda *_: None)
    queue_evaluations(databases, number)


def process(databases: Databases, number: int, end: str) -> None:
    """Leave the rows of a batch that wait as processors do; `end` is one of `ENDS`."""
    which, status = ENDS[end].split(",", 1)
    if end == "waiting":
        return
    ask(
        databases,
        f"UPDATE llm_responses SET status = {status}, overall_score = 80, response_text = 'Yes.', "
        f"input_tokens = 100, output_tokens = 10, task_id = :task "
        f"WHERE batch_id = :id AND status = 'QUEUED' AND {which}",
        id=number,
        task="simulated-1" if end == "simulated" else "task-1",
    )
    poll(databases)
    poll(databases)
    if end == "superseded":
        reprocess(databases, number, Mode.all, lambda *_: None)
    if end == "archived":
        archive(databases, number, lambda *_: None, lambda *_: None)


def counts(databases: Databases, number: int) -> dict[str, int]:
    ((asked, reused, documents),) = ask(
        databases,
        "SELECT count(*) FILTER (WHERE reused_from IS NULL), "
        "count(*) FILTER (WHERE reused_from IS NOT NULL), "
        "(SELECT count(*) FROM docs) FROM llm_responses WHERE batch_id = :id",
        id=number,
    )
    return {"asked": asked, "reused": reused, "stored": documents}


def changed(databases: Databases, number: int, rows: list[Any]) -> tuple[int, int]:
    """From how many batches results came, and how many rows were set aside, since there were these rows."""
    (found,) = ask(
        databases,
        "SELECT count(DISTINCT reused_batch_id) FILTER (WHERE NOT id = ANY(CAST(:known AS bigint[]))), "
        "count(*) FILTER (WHERE id = ANY(CAST(:here AS bigint[])) AND withdrawn_at IS NOT NULL "
        "AND superseded_at IS NULL) FROM llm_responses WHERE batch_id = :id",
        id=number,
        known=[row.id for row in rows],
        here=[row.id for row in rows if row.withdrawn_at is None],
    )
    return int(found[0]), int(found[1])


def hold_to_bill(databases: Databases, number: int, mode: Mode, rescan: bool) -> None:
    """Plan, act, and compare."""
    before = dump(databases)
    planned = plan(databases, number, mode, lambda *_: None, rescan=rescan).as_json()
    assert dump(databases) == before, "a plan writes nothing"
    had = counts(databases, number)
    rows = ask(databases, "SELECT id, withdrawn_at FROM llm_responses WHERE batch_id = :id", id=number)
    if planned["status"] == "SAVED":
        stage(databases, number)
    else:
        reprocess(databases, number, mode, lambda *_: None, rescan=rescan)
    got = counts(databases, number)
    cells = planned["cells"]
    asked = sum(cells["added"].values()) + sum(cells["superseded"].values())
    billed = {key: got[key] - had[key] for key in ("asked", "reused", "stored")}
    assert billed == {
        "asked": asked,
        "reused": cells["from_earlier"],
        "stored": planned["documents"]["added"],
    }
    assert sum(estimate["cells"] for estimate in planned["estimates"]) == asked
    assert changed(databases, number, rows) == (
        cells["earlier_batches"],
        cells["set_aside"] if rescan else 0,
    )


RICH: dict[str, Any] = {
    "before": [
        ({"files": {"a.txt": 1, "b.txt": 2}, "prompts": ["clear"], "connections": ["model"]}, "mixed"),
        ({"files": {"f.txt": 4}, "prompts": ["clear"], "connections": ["model"]}, "finished"),
        ({"files": {"a.txt": 1, "c.txt": 3}, "prompts": ["clear"], "connections": ["alias"]}, "superseded"),
        ({"files": {"c.txt": 3}, "prompts": ["clear"], "connections": ["made up"]}, "simulated"),
        ({"files": {"b.txt": 2}, "prompts": ["clarity"], "connections": ["model"]}, "archived"),
    ],
    "last": {
        "files": {"a.txt": 1, "b.txt": 1, "c.txt": 0, "d/e.txt": 3},
        "prompts": ["clear", "clarity"],
        "connections": ["model", "other"],
        "reuse": "finished",
    },
    "steps": [
        ({"a.txt": 2, "c.txt": 3}, Mode.missing, True, "mixed"),
        ({"a.txt": 1, "c.txt": 3, "f.txt": 4}, Mode.all, True, "waiting"),
    ],
}


def live(settings: Settings, before: list[Any], last: dict[str, Any], steps: list[Any]) -> None:
    databases = empty_databases(settings)
    with TemporaryDirectory() as home:
        folder = Path(home).resolve()
        for place, (keys, end) in enumerate(before):
            write(folder, {"always.txt": 5, **keys["files"]})
            number = apply(databases, folder, f"earlier {place}", **without_files(keys))
            stage(databases, number)
            process(databases, number, end)
        write(folder, {"always.txt": 5, **last["files"]})
        number = apply(databases, folder, "last", **without_files(last))
        hold_to_bill(databases, number, Mode.missing, False)
        for files, mode, rescan, end in steps:
            process(databases, number, end)
            write(folder, {"always.txt": 5, **files})
            hold_to_bill(databases, number, mode, rescan)


def without_files(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key != "files"}


def test_what_is_planned_is_queued_and_reused(settings: Settings) -> None:
    live(settings, **RICH)


def test_reused_results_of_every_connection_are_left_out_of_its_estimate(settings: Settings) -> None:
    chosen: dict[str, Any] = {"files": {"a.txt": 1}, "prompts": ["clear"], "connections": ["model", "other"]}
    live(settings, [(chosen, "finished")], {**chosen, "reuse": "finished"}, [])


@pytest.mark.slow
@given(before=st.lists(earlier_batch, max_size=3), last=choice, steps=st.lists(step, max_size=2))
@examples(max_examples=12, deadline=None, derandomize=True, database=None)
def test_whatever_was_before_it_is_queued_and_reused_as_planned(
    settings: Settings, before: list[Any], last: dict[str, Any], steps: list[Any]
) -> None:
    live(settings, before, last, steps)


def define(databases: Databases, folder: Path, **keys: Any) -> RecurringRecord:
    definition = {
        "name": "inbox",
        "schedule": "0 2 * * *",
        "folders": [str(folder)],
        "connections": ["model"],
        "prompts": ["clear", "brief"],
        **keys,
    }
    apply_evaluation(databases.doc_eval, locate({**definitions(), "recurring": [definition]}, None, key_path))
    with databases.doc_eval.connect() as connection:
        return find_recurring(connection, "inbox")


def planned_occurrence(databases: Databases, record: RecurringRecord) -> dict[str, Any]:
    before = dump(databases)
    found = plan_occurrence(databases, record, lambda *_: None).as_json()
    assert dump(databases) == before, "a plan writes nothing"
    return found


@pytest.mark.parametrize("scope", ["changed", "all"])
def test_the_next_occurrence_is_planned_as_it_is_then_made(
    databases: Databases, tmp_path: Path, scope: str
) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    record = define(databases, folder, scope=scope, max_documents=2)
    night, batches = datetime(2026, 12, 1, 2, tzinfo=UTC), []
    for files, end in (
        ({"a.txt": 1, "b.txt": 2}, "finished"),
        ({"a.txt": 1, "b.txt": 2}, "finished"),
        ({"a.txt": 1, "c.txt": 2, "d/e.txt": 3, "b.txt": 0}, "mixed"),
        ({"a.txt": 2, "c.txt": 3, "d/e.txt": 4}, "finished"),
    ):
        write(folder, files)
        planned = planned_occurrence(databases, record)
        made = make_occurrence(databases, record, night)
        night += timedelta(days=1)
        assert (planned["outcome"], planned["reason"]) == (made.outcome, made.reason)
        assert planned["files"] == asdict(made.files)
        if made.batch_id is None:
            continue
        batches.append(made.batch_id)
        # Sealed, and not staged.
        again = plan(databases, made.batch_id, Mode.missing, lambda *_: None, rescan=False).as_json()
        same = ("documents", "cells", "estimates", "held")
        assert {key: again[key] for key in same} == {key: planned[key] for key in same}
        hold_to_bill(databases, made.batch_id, Mode.missing, False)
        with databases.doc_eval.connect() as connection:
            held = connection.scalar(
                text("SELECT held_reason FROM batches WHERE id = :id"), {"id": made.batch_id}
            )
        assert planned["held"] == held
        if held is not None:
            resume(databases, made.batch_id)
        process(databases, made.batch_id, end)
    write(folder, {"a.txt": 4, "b.txt": 2, "d/e.txt": 3})
    hold_to_bill(databases, batches[1], Mode.missing, True)


def test_a_batch_of_what_changed_never_takes_other_files(databases: Databases, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    write(folder, {"a.txt": 1})
    made = make_occurrence(databases, define(databases, folder), datetime(2026, 12, 1, 2, tzinfo=UTC))
    assert made.batch_id is not None
    write(folder, {"b.txt": 2})
    for _ in range(2):
        with pytest.raises(StagingError, match="1 vanished"):
            stage(databases, made.batch_id)


def test_a_folder_that_is_away_is_planned_as_the_failure_that_is_recorded(
    databases: Databases, tmp_path: Path
) -> None:
    folder = tmp_path / "away"
    folder.mkdir()
    record = define(databases, folder)
    folder.rmdir()
    planned = planned_occurrence(databases, record)
    made = make_occurrence(databases, record, datetime(2026, 12, 1, 2, tzinfo=UTC))
    assert (planned["outcome"], planned["reason"]) == (made.outcome, made.reason) == ("FAILED", made.reason)


def test_reused_results_cost_nothing_where_a_limit_is_compared(databases: Databases, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    files = {"a.txt": 1, "b.txt": 2, "c.txt": 3, "d/e.txt": 4}
    write(folder, files)
    keys = {"connections": ["other"], "prompts": ["clear"], "scope": "all", "skip_if_nothing_new": False}
    first = make_occurrence(
        databases, define(databases, folder, **keys), datetime(2026, 12, 1, 2, tzinfo=UTC)
    )
    assert first.batch_id is not None
    stage(databases, first.batch_id)
    process(databases, first.batch_id, "finished")
    # Each evaluation took 100 tokens, and a token costs 1 EUR.
    record = define(databases, folder, **keys, max_cost=50)
    assert planned_occurrence(databases, record)["held"] is None
    write(folder, {**files, "f.txt": 5})
    held = planned_occurrence(databases, record)["held"]
    assert held == "an expected cost of 100.00 EUR exceeds max_cost (50.00)"
    second = make_occurrence(databases, record, datetime(2026, 12, 2, 2, tzinfo=UTC))
    assert second.batch_id is not None
    stage(databases, second.batch_id)
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, second.batch_id)
    assert (batch.status, batch.held_reason) == ("PAUSED", held)
