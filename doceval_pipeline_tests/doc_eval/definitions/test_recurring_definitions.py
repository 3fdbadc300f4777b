"""Recurring evaluations in an evaluation file: each mistake is one line with file, line, key and fix."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.applying import apply as apply_and_look
from doceval_pipeline.batches.staging.applying import next_occurrences
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, load_evaluation_file, locate
from doceval_pipeline.doc_eval.definitions.schema import LONGEST_RECURRING_NAME
from doceval_pipeline.doc_eval.recurring.stored import find_recurring, list_recurring
from doceval_pipeline.errors import EvaluationFileError, UnknownRecurring
from doceval_pipeline_tests.secret_canaries import CARELESS, KEY, PASSWORD, with_secret

HEAD = """\
connections:
  - {name: gpt, provider: openai, model: gpt-4o}
prompts:
  - {name: clarity, text: "How clear?"}
recurring:
  - name: inbox
    folders: [./inbox]
    connections: [gpt]
    prompts: [clarity]
"""
NIGHTLY = 'schedule: "0 2 * * *"'


def load(folder: Path, *lines: str, head: str = HEAD) -> Any:
    (folder / "inbox").mkdir(exist_ok=True)
    path = folder / "e.yaml"
    path.write_text(head + "".join(f"    {line}\n" for line in lines))
    return load_evaluation_file(path)


def problem(folder: Path, *lines: str, head: str = HEAD) -> str:
    with pytest.raises(EvaluationFileError) as caught:
        load(folder, *lines, head=head).refuse()
    (line,) = caught.value.problems
    return str(line).removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["schedule: * * * * *"],
            "e.yaml:10: is not valid YAML or JSON: a value cannot begin with *: put it",
        ),
        (["schedule: @daily"], "e.yaml:10: is not valid YAML or JSON: a value cannot begin with @: put it"),
        (
            ['schedule: [0, 2, "*", "*", 1]'],
            "e.yaml:10: recurring[0].schedule: must be text: put it in quotes",
        ),
        (
            ["schedule: 0 0 31 2 *"],
            "e.yaml:10: recurring[0].schedule: never fires, because no such date exists",
        ),
        ([], "e.yaml:6: recurring[0]: has neither schedule nor on_arrival: add schedule: "),
        (
            ["on_arrival: false"],
            "e.yaml:6: recurring[0]: has neither schedule nor on_arrival: add schedule: ",
        ),
        (
            [NIGHTLY, "on_arrival: true"],
            "e.yaml:6: recurring[0]: has both schedule and on_arrival: keep one of",
        ),
        (["on_arrival: yes"], "e.yaml:10: recurring[0].on_arrival: must be true or false, without quotes"),
        (
            [NIGHTLY, "timezone: berlin"],
            "e.yaml:11: recurring[0].timezone: is not a known time zone: did you",
        ),
        ([NIGHTLY, "quiet_for: 5m"], "e.yaml:11: recurring[0].quiet_for: applies only with on_arrival"),
        ([NIGHTLY, "interval: 5m"], "e.yaml:11: recurring[0].interval: applies only with on_arrival"),
        (["on_arrival: true", "interval: 0"], "e.yaml:11: recurring[0].interval: must be between 1s and 7d"),
        (
            ["on_arrival: true", "quiet_for: 8d"],
            "e.yaml:11: recurring[0].quiet_for: must be between 1s and 7d",
        ),
        (
            ["on_arrival: true", 'quiet_for: "60"'],
            "e.yaml:11: recurring[0].quiet_for: must be a number of seconds",
        ),
        (
            ["on_arrival: true", 'quiet_for: "٥m"'],
            "e.yaml:11: recurring[0].quiet_for: must be a number of seconds",
        ),
        ([NIGHTLY, "scope: new"], "e.yaml:11: recurring[0].scope: must be 'changed' or 'all'"),
        ([NIGHTLY, "reuse: true"], "e.yaml:11: recurring[0].reuse: must be 'finished' or 'nothing'"),
        ([NIGHTLY, "max_documents: 0"], "e.yaml:11: recurring[0].max_documents: must be 1 or more"),
        (
            [NIGHTLY, "max_documents: 2147483648"],
            "e.yaml:11: recurring[0].max_documents: must be 1,000,000,000",
        ),
        ([NIGHTLY, "max_cost: -1"], "e.yaml:11: recurring[0].max_cost: must be 0 or more"),
        ([NIGHTLY, "max_cost: .nan"], "e.yaml:11: recurring[0].max_cost: is infinite or not a number"),
        ([NIGHTLY, "margin: 0"], "e.yaml:11: recurring[0].margin: must be more than 0"),
        ([NIGHTLY, "margin: true"], "e.yaml:11: recurring[0].margin: must be a number"),
        ([NIGHTLY, "margin: .inf"], "e.yaml:11: recurring[0].margin: is infinite or not a number"),
        (
            [NIGHTLY, "threshold: 60"],
            "e.yaml:11: recurring[0].threshold: is not a key of a recurring evaluation: move it to a prompt",
        ),
        ([NIGHTLY, "max_cost: 5 USD"], "e.yaml:11: recurring[0].max_cost: must be a number"),
        (
            [NIGHTLY, "time_zone: UTC"],
            "e.yaml:11: recurring[0].time_zone: is not a known key: did you mean tim",
        ),
        (
            [NIGHTLY, "stage_after: x"],
            "e.yaml:11: recurring[0].stage_after: is not a key of a recurring evalua",
        ),
        (
            [NIGHTLY, "metadata: {password: hunter2}"],
            "e.yaml:11: recurring[0].metadata: 'password' looks like",
        ),
    ],
)
def test_a_mistake_names_line_key_and_what_to_do(tmp_path: Path, lines: list[str], expected: str) -> None:
    assert problem(tmp_path, *lines).startswith(expected)


@pytest.mark.parametrize("place", [name for name, (at, _) in CARELESS.items() if at[0] == "batches"])
def test_a_key_in_a_recurring_evaluation_is_rejected_and_not_repeated(tmp_path: Path, place: str) -> None:
    content = with_secret(tmp_path, place)
    content["recurring"] = [{**content.pop("batches")[0], "schedule": "0 2 * * *"}]
    with pytest.raises(EvaluationFileError) as caught:
        locate(content, None, key_path).refuse()
    assert "key" in str(caught.value)
    assert KEY not in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("key", ["schedule", "timezone", "scope", "reuse", "interval", "max_cost"])
def test_a_key_in_another_value_is_not_repeated(tmp_path: Path, key: str) -> None:
    lines = [f"{key}: {KEY}"] if key == "schedule" else [NIGHTLY, f"{key}: {KEY}"]
    assert KEY not in problem(tmp_path, *lines)


def test_a_batch_knows_reuse_and_no_schedule(tmp_path: Path) -> None:
    head = HEAD.replace("recurring:", "batches:")
    assert load(tmp_path, "reuse: finished", head=head).evaluation.batches[0].reuse == "finished"
    assert "batches[0].schedule: is not a key of a batch: move it to a recurring evaluation" in problem(
        tmp_path, NIGHTLY, head=head
    )


def test_a_name_leaves_room_for_the_date_of_each_batch(tmp_path: Path) -> None:
    longest = "n" * LONGEST_RECURRING_NAME
    load(tmp_path, NIGHTLY, head=HEAD.replace("inbox\n", f"{longest}\n", 1)).refuse()
    assert "use at most 170, because batches are named after it and the date" in problem(
        tmp_path, NIGHTLY, head=HEAD.replace("inbox\n", f"{longest}n\n", 1)
    )


def test_one_name_in_two_unicode_forms_is_defined_twice(tmp_path: Path) -> None:
    (definition,) = HEAD.split("recurring:\n")[1:]
    composed, decomposed = definition.replace("inbox\n", "Pr\u00fcfung\n", 1), "Pru\u0308fung\n"
    twice = f"{composed}    {NIGHTLY}\n{definition.replace('inbox' + chr(10), decomposed, 1)}"
    head = HEAD.split("recurring:\n")[0] + "recurring:\n" + twice
    assert "recurring[1].name: 'Prüfung' is defined twice: keep one of them" in problem(
        tmp_path, NIGHTLY, head=head
    )


def test_white_space_in_a_schedule_makes_no_difference(databases: Databases, tmp_path: Path) -> None:
    apply_and_look(databases, load(tmp_path, 'schedule: " 0  2\\t* * 1-5\\n"'))
    applied, _ = apply_and_look(databases, load(tmp_path, "schedule: 0 2 * * 1-5"))
    assert applied.recurring.unchanged == ["inbox"]


def test_a_definition_that_an_earlier_version_stored_gets_a_margin_and_keeps_having_none(
    databases: Databases, tmp_path: Path
) -> None:
    apply_and_look(databases, load(tmp_path, NIGHTLY))
    with databases.doc_eval.begin() as connection:
        connection.execute(text("UPDATE recurring_evaluations SET definition = definition - 'margin'"))
    assert not apply_and_look(databases, load(tmp_path, NIGHTLY))[0].changed
    assert not apply_and_look(databases, load(tmp_path, NIGHTLY, "margin: null"))[0].changed
    with databases.doc_eval.connect() as connection:
        assert find_recurring(connection, "inbox").definition.margin is None
    shown = []
    for value in ("3", "2.5", "2.50", "null"):
        applied, _ = apply_and_look(databases, load(tmp_path, NIGHTLY, f"margin: {value}"))
        shown += [change.sentence for change in applied.changes]
    effect = "; takes effect at the next occurrence"
    assert shown == [
        f"recurring evaluation 'inbox': margin none → 3{effect}",
        f"recurring evaluation 'inbox': margin 3 → 2.5{effect}",
        f"recurring evaluation 'inbox': margin 2.5 → none{effect}",
    ]


def test_a_new_threshold_does_not_change_what_the_next_occurrence_asks(
    databases: Databases, tmp_path: Path
) -> None:
    apply_and_look(databases, load(tmp_path, NIGHTLY))
    head = HEAD.replace('"How clear?"', '"How clear?", threshold: 60')
    (change,) = apply_and_look(databases, load(tmp_path, NIGHTLY, head=head))[0].changes
    assert (change.batches, change.recurring) == ([], [])
    assert (
        change.sentence
        == "prompt 'clarity': threshold none → 60; counts in new reports (doceval report BATCH)"
    )


def test_apply_shows_what_changes_for_the_next_occurrence(databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.txt").write_text("a")
    applied, _ = apply_and_look(databases, load(tmp_path, NIGHTLY))
    (coming,) = next_occurrences(databases, applied)
    assert (coming.record.name, coming.found and coming.found.usable) == ("inbox", 1)
    again, _ = apply_and_look(databases, load(tmp_path, NIGHTLY))
    assert (again.changed, again.recurring.unchanged) == (False, ["inbox"])
    assert next_occurrences(databases, again)[0].found is None

    costly, _ = apply_and_look(databases, load(tmp_path, NIGHTLY, "max_cost: 5"))
    (coming,) = next_occurrences(databases, costly)
    assert coming.found is not None
    assert coming.found.notes == []
    (note,) = costly.notes
    assert note.startswith("inbox: input or output price is missing for gpt")
    apply_and_look(databases, load(tmp_path, NIGHTLY, "max_cost: null"))

    head = HEAD.replace("How clear?", "Is it clear?")
    changed, _ = apply_and_look(databases, load(tmp_path, NIGHTLY, "max_documents: 5", head=head))
    assert [change.sentence for change in changed.changes] == [
        'prompt \'clarity\': text "How clear?" → "Is it clear?"; affects the next occurrence of inbox',
        "recurring evaluation 'inbox': max_documents none → 5; takes effect at the next occurrence",
    ]
    # One of schedule and on_arrival takes the other's place; a key that is left out keeps its value.
    apply_and_look(databases, load(tmp_path, "on_arrival: true", head=head))
    with databases.doc_eval.connect() as connection:
        definition = find_recurring(connection, "inbox").definition
    assert (definition.on_arrival, definition.schedule, definition.max_documents) == (True, None, 5)
    # A file that does not name it any more deletes nothing.
    apply_and_look(databases, load(tmp_path, head=head.split("recurring:")[0]))
    with databases.doc_eval.connect() as connection:
        assert [record.name for record in list_recurring(connection)] == ["inbox"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Inbxo", "did you mean 'inbox'?"),
        ("qqqq", "run doceval recurring list to see all"),
        ("in\udcffbox", "did you mean 'inbox'?"),
        ("\0", "run doceval recurring list to see all"),
    ],
)
def test_an_unknown_name_is_answered_with_a_similar_one(
    databases: Databases, tmp_path: Path, name: str, advice: str
) -> None:
    apply_and_look(databases, load(tmp_path, NIGHTLY))
    with databases.doc_eval.connect() as connection, pytest.raises(UnknownRecurring) as caught:
        find_recurring(connection, name)
    assert str(caught.value).endswith(advice)
