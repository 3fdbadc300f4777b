"""Applying again: which values of existing definitions change, which are kept, and what apply reports."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.steps import seal_batch
from doceval_pipeline.doc_eval.definitions.apply import Applied, apply_evaluation
from doceval_pipeline.doc_eval.definitions.changes import ReplacedValue
from doceval_pipeline.doc_eval.definitions.evaluation_file import load_evaluation_file
from doceval_pipeline.errors import EvaluationFileError
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
Apply = Callable[..., Applied]

CONNECTION = {
    "name": "model-a",
    "provider": "openai",
    "model": "gpt",
    "base_url": "https://api.example.com/v1",
    "port": 8443,
    "api_key_env": "SOME_KEY",
    "config": {"temperature": 0, "stop": [True]},
    "prices": {"input_per_million": 2.5, "output_per_million": 10, "currency": "EUR"},
}
BARE = {key: CONNECTION[key] for key in ("name", "provider", "model")}
PROMPT: dict[str, Any] = {"name": "clarity", "text": "How clear?", "threshold": 60, "weight": 2.5}
ASKED = {key: PROMPT[key] for key in ("name", "text")}
BATCH: dict[str, Any] = {
    "name": "contracts",
    "connections": ["model-a"],
    "prompts": ["clarity"],
    "description": "All of them",
    "metadata": {"owner": "legal"},
    "include": ["*.pdf"],
    "exclude": ["old/"],
    "stage_after": "2999-01-01T00:00:00Z",
    "priority": 50,
    "margin": 3,
}
REQUIRED = ("name", "connections", "prompts")
STORED = text("""
    SELECT (SELECT jsonb_agg(to_jsonb(t)) FROM batches t), (SELECT jsonb_agg(to_jsonb(t)) FROM connections t),
           (SELECT jsonb_agg(to_jsonb(t)) FROM prompts t)
""")


@pytest.fixture
def apply(databases: Databases, tmp_path: Path) -> Apply:
    """Applies a file that has these definitions; batches get a folder."""

    def applied(
        connections: list[Any] | None = None,
        prompts: list[Any] | None = None,
        batches: list[Any] | None = None,
    ) -> Applied:
        content: dict[str, Any] = {"connections": connections or [], "prompts": prompts or []}
        content["batches"] = [{"folders": [str(tmp_path)], **batch} for batch in batches or []]
        file = tmp_path / "evaluation.yaml"
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return apply_evaluation(databases.doc_eval, load_evaluation_file(file))

    return applied


def stored(databases: Databases) -> Any:
    with databases.doc_eval.connect() as connection:
        return connection.execute(STORED).one()


def test_a_key_that_is_left_out_keeps_its_value(apply: Apply, databases: Databases) -> None:
    apply([CONNECTION], [PROMPT], [BATCH])
    before = stored(databases)
    again = apply([BARE], [ASKED], [{key: BATCH[key] for key in REQUIRED}])
    assert not again.changed
    assert again.changes == []
    assert stored(databases) == before


@pytest.mark.parametrize("key", ["base_url", "port", "api_key_env", "config", "prices"])
def test_null_clears_a_key_of_a_connection_and_no_other(apply: Apply, databases: Databases, key: str) -> None:
    apply([CONNECTION])
    applied = apply([{**BARE, key: None}])
    empty = {} if key == "config" else None
    assert applied.changes == [ReplacedValue("connection", "model-a", key, CONNECTION[key], empty, [])]
    assert applied.connections.updated == ["model-a"]
    assert not apply([{**CONNECTION, key: None}]).changed
    assert not apply([BARE]).changed


@pytest.mark.parametrize("key", ["threshold", "weight"])
def test_null_clears_a_key_of_a_prompt_and_no_other(apply: Apply, key: str) -> None:
    apply([CONNECTION], [PROMPT], [BATCH])
    applied = apply([], [{**ASKED, key: None}])
    assert applied.changes == [ReplacedValue("prompt", "clarity", key, PROMPT[key], None, [])]
    assert applied.changes[0].sentence == (
        f"prompt 'clarity': {key} {PROMPT[key]} → none; counts in new reports (doceval report BATCH)"
    )
    assert not apply([], [{**PROMPT, key: None}]).changed
    assert not apply([], [ASKED]).changed


@pytest.mark.parametrize(
    ("value", "shown"), [(70, "70"), (70.0, "70"), (62.5, "62.5"), (0, "0"), (100, "100")]
)
def test_a_threshold_is_shown_as_it_was_written_whole_or_not(apply: Apply, value: float, shown: str) -> None:
    apply([], [PROMPT])
    (change,) = apply([], [{**ASKED, "threshold": value}]).changes
    assert (
        change.sentence
        == f"prompt 'clarity': threshold 60 → {shown}; counts in new reports (doceval report BATCH)"
    )
    assert not apply([], [{**ASKED, "threshold": float(value)}]).changed


@pytest.mark.parametrize(
    ("key", "empty"),
    [
        ("description", ""),
        ("metadata", {}),
        ("include", []),
        ("exclude", []),
        ("stage_after", None),
        ("priority", 10),
        ("margin", None),
    ],
)
def test_null_clears_a_key_of_a_batch_and_no_other(apply: Apply, key: str, empty: Any) -> None:
    number = apply([CONNECTION], [PROMPT], [BATCH]).numbers["contracts"]
    (change,) = apply(batches=[{**{k: BATCH[k] for k in REQUIRED}, key: None}]).changes
    assert (change.kind, change.key, change.new, change.batches) == ("batch", key, empty, [number])
    assert change.old == (BATCH[key] if key != "stage_after" else "2999-01-01T00:00:00.000000Z")
    assert not apply(batches=[{**BATCH, key: None}]).changed


def test_a_price_that_is_left_out_keeps_its_value_too(apply: Apply) -> None:
    apply([CONNECTION])
    (change,) = apply([{**BARE, "prices": {"input_per_million": 3}}]).changes
    assert change.new == {"input_per_million": 3, "output_per_million": 10, "currency": "EUR"}
    apply([{**BARE, "prices": None}])
    (change,) = apply([{**BARE, "prices": {"input_per_million": 3}}]).changes
    assert change.new == {"input_per_million": 3, "output_per_million": None, "currency": "USD"}


@pytest.mark.parametrize(
    ("first", "second"), [("داد", "د\u200cاد"), ("مc", "م\u200dc"), ("❤", "❤\ufe0e"), ("कक", "क\u200dक")]
)
def test_a_new_name_that_looks_like_another_one_is_refused(apply: Apply, first: str, second: str) -> None:
    apply([{**CONNECTION, "name": first}])
    with pytest.raises(EvaluationFileError, match=r"may look the same as .*: choose another name"):
        apply([{**CONNECTION, "name": second}])
    with pytest.raises(EvaluationFileError, match="may look the same as"):
        apply([CONNECTION], [{**PROMPT, "name": first}, {**PROMPT, "name": second}])


def test_true_is_not_one_and_one_is_one_point_zero(apply: Apply) -> None:
    apply([CONNECTION])
    assert not apply([{**BARE, "config": {"temperature": 0.0, "stop": [True]}}]).changed
    (change,) = apply([{**BARE, "config": {"temperature": 0, "stop": [1]}}]).changes
    assert change.new == {"temperature": 0, "stop": [1]}
    large = {**BARE, "config": {"seed": 1e23, "small": 1e-7}}
    assert apply([large]).changed
    assert not apply([large]).changed


def test_a_sealed_batch_may_be_given_with_its_required_keys_only(apply: Apply, databases: Databases) -> None:
    seal_batch(databases, apply([CONNECTION], [PROMPT], [BATCH]).numbers["contracts"])
    assert not apply(batches=[{key: BATCH[key] for key in REQUIRED}]).changed
    with pytest.raises(EvaluationFileError, match="sealed when its staging began, and metadata would change"):
        apply(batches=[{**BATCH, "metadata": None}])
    (change,) = apply(batches=[{**BATCH, "priority": 60}]).changes
    assert (change.key, change.old, change.new) == ("priority", 50, 60)


@pytest.mark.parametrize("margin", [None, 5, 2.999])
def test_the_margin_of_a_sealed_batch_cannot_change_nor_can_it_get_one(
    apply: Apply, databases: Databases, margin: float | None
) -> None:
    seal_batch(databases, apply([CONNECTION], [PROMPT], [BATCH]).numbers["contracts"])
    before = stored(databases)
    with pytest.raises(EvaluationFileError, match="sealed when its staging began, and margin would change"):
        apply(batches=[{**BATCH, "margin": margin}])
    without = {**BATCH, "name": "without", "margin": None}
    seal_batch(databases, apply([], [], [without]).numbers["without"])
    with pytest.raises(EvaluationFileError, match="and margin would change: give the changed batch a new"):
        apply(batches=[{**without, "margin": 3}])
    assert not apply([CONNECTION], [PROMPT], [{**BATCH, "margin": 3.0}, without]).changed
    assert stored(databases)[0][0] == before[0][0]


def test_changes_name_the_open_batches_that_they_affect(apply: Apply, databases: Databases) -> None:
    numbers = apply(
        [CONNECTION], [PROMPT], [{**BATCH, "name": name} for name in ("saved", "staged", "completed")]
    ).numbers
    for name in ("staged", "completed"):
        seal_batch(databases, numbers[name])
    with databases.doc_eval.begin() as connection:
        connection.execute(
            text("UPDATE batches SET status = upper(batch_name), expected_cells = 1 WHERE id <> :id"),
            {"id": numbers["saved"]},
        )
    applied = apply(
        [{**BARE, "prices": None, "config": {"temperature": 1}}], [{**PROMPT, "text": "How clear is it?"}]
    )
    affected = {(change.kind, change.key): change.batches for change in applied.changes}
    assert affected == {
        ("connection", "config"): [numbers["saved"]],
        ("connection", "prices"): [numbers["saved"], numbers["staged"]],
        ("prompt", "text"): [numbers["saved"]],
    }


def test_a_change_is_one_line_around_the_first_difference() -> None:
    one = ReplacedValue("connection", "model-a", "prices", {"input_per_million": 2.5}, None, [3])
    assert (
        one.sentence
        == "connection 'model-a': prices {\"input_per_million\": 2.5} → none; affects batch-000003"
    )
    other = ReplacedValue(
        "prompt", "p", "text", "x" * 500 + "old\nend" + "y" * 500, "x" * 500 + "new", list(range(8))
    )
    assert other.sentence == (
        f"prompt 'p': text …{'x' * 20}old\\nend{'y' * 52}… → …{'x' * 20}new\"; affects batch-000000, "
        "batch-000001, batch-000002, batch-000003, batch-000004 and 3 more"
    )
    assert ReplacedValue("prompt", "p", "text", "a", "b", []).sentence == (
        'prompt \'p\': text "a" → "b"; no open batch is affected'
    )


def test_a_key_that_was_stored_in_a_connection_is_not_shown(apply: Apply, databases: Databases) -> None:
    apply([CONNECTION])
    with databases.doc_eval.begin() as connection:
        connection.execute(
            text("""UPDATE connections SET connection_config = '{"api_key": "hunter2"}',
                    base_url = 'https://u:hunter2@h/'""")
        )
    changes = apply([CONNECTION]).changes
    assert [(change.key, change.old) for change in changes] == [
        ("base_url", "(key not shown)"),
        ("config", "(key not shown)"),
    ]


DECOMPOSED = "Pru\u0308fung"


@pytest.mark.parametrize(("first", "second"), [("Prüfung", DECOMPOSED), (DECOMPOSED, "Prüfung")])
def test_names_that_read_alike_are_the_same(
    apply: Apply, databases: Databases, first: str, second: str
) -> None:
    def named(name: str) -> tuple[list[Any], list[Any], list[Any]]:
        batch = {**BATCH, "name": name, "connections": [name], "prompts": [name]}
        return [{**CONNECTION, "name": name}], [{**PROMPT, "name": name}], [batch]

    number = apply(*named(first)).numbers["Prüfung"]
    before = stored(databases)
    again = apply(*named(second))
    assert not again.changed
    assert again.numbers == {"Prüfung": number}
    assert stored(databases) == before
    assert not apply([], [], named(second)[2]).changed
    with pytest.raises(EvaluationFileError, match="'Prüfung' is defined twice"):
        apply([*named(first)[0], *named(second)[0]])


def test_a_name_that_was_stored_decomposed_is_found_and_stays(apply: Apply, databases: Databases) -> None:
    batch = {**BATCH, "name": "Prüfung", "connections": ["Prüfung"], "prompts": ["Prüfung"]}
    everything = [{**CONNECTION, "name": "Prüfung"}], [{**PROMPT, "name": "Prüfung"}], [batch]
    number = apply(*everything).numbers["Prüfung"]
    with databases.doc_eval.begin() as connection:
        for table, column in (("batches", "batch_name"), ("connections", "name"), ("prompts", "name")):
            connection.execute(text(f"UPDATE {table} SET {column} = normalize({column}, NFD)"))
    assert not apply(*everything).changed
    applied = apply([{**CONNECTION, "name": "Prüfung", "port": 1}], batches=[{**batch, "description": "new"}])
    assert [change.key for change in applied.changes] == ["port", "description"]
    assert applied.numbers == {"Prüfung": number}
    assert [row["batch_name"] for row in stored(databases)[0]] == [DECOMPOSED]
    assert len(stored(databases)[1]) == 1


def test_a_name_in_another_case_is_another_name(apply: Apply) -> None:
    assert apply([], [PROMPT, {**PROMPT, "name": "Clarity"}]).prompts.created == ["clarity", "Clarity"]


def test_of_several_equal_names_the_one_with_the_same_spelling_is_used_or_none(
    apply: Apply, databases: Databases
) -> None:
    apply([], [PROMPT])
    with databases.doc_eval.begin() as connection:
        connection.execute(text("DROP INDEX prompts_one_per_name"))
    try:
        with databases.doc_eval.begin() as connection:
            ids = connection.scalars(
                text(
                    "INSERT INTO prompts (name, prompt_text) VALUES (:one, 'a'), (:other, 'b') RETURNING id"
                ),
                {"one": "a\u0323\u0302", "other": "\u1ea1\u0302"},
            ).all()
        with pytest.raises(EvaluationFileError) as caught:
            apply([], [{"name": "\u1ead", "text": "c"}])
        (problem,) = caught.value.problems
        assert problem.endswith(
            f"prompts[0].name: prompts {ids[0]} and {ids[1]} have the name '\u1ead' in other "
            "Unicode forms: choose another name"
        )
        with databases.doc_eval.begin() as connection:
            connection.execute(
                text("UPDATE prompts SET name = :name WHERE id = :id"), {"name": "\u1ead", "id": ids[1]}
            )
        (change,) = apply([], [{"name": "\u1ead", "text": "c"}]).changes
        assert change.old == "b"
    finally:
        with databases.doc_eval.begin() as connection:
            connection.execute(text("TRUNCATE prompts CASCADE"))
            connection.execute(
                text("CREATE UNIQUE INDEX prompts_one_per_name ON prompts (normalize(name, NFC))")
            )


def test_a_name_that_differs_only_in_case_is_suggested(apply: Apply) -> None:
    apply([CONNECTION], [PROMPT], [BATCH])
    wrong = {**BATCH, "name": "other", "connections": [str(CONNECTION["name"]).upper()]}
    with pytest.raises(EvaluationFileError, match=f"did you mean '{CONNECTION['name']}'"):
        apply(batches=[wrong])
