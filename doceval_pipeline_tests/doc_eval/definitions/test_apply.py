"""Applying an evaluation: atomic, repeatable, and never into a sealed batch."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.steps import seal_batch
from doceval_pipeline.doc_eval.batches import batch_id_of, find_batch
from doceval_pipeline.doc_eval.definitions.apply import Applied, apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import Located, load_evaluation_file
from doceval_pipeline.doc_eval.definitions.schema import ConnectionDefinition, Prices
from doceval_pipeline.doc_eval.history import read_prices
from doceval_pipeline.errors import EvaluationFileError, UnknownBatch
from doceval_pipeline_tests.conftest import evaluation_of

ROWS = text("""
    SELECT (SELECT jsonb_agg(to_jsonb(t)) FROM batches t), (SELECT jsonb_agg(to_jsonb(t)) FROM connections t),
           (SELECT jsonb_agg(to_jsonb(t)) FROM prompts t), (SELECT jsonb_agg(to_jsonb(t)) FROM folders t),
           (SELECT jsonb_agg(to_jsonb(t)) FROM batch_folders t), (SELECT last_value FROM batches_id_seq),
           (SELECT last_value FROM connections_id_seq), (SELECT last_value FROM folders_id_seq)
""")


def apply(databases: Databases, *batches: dict[str, Any], stage: bool = False, **options: int) -> Applied:
    return apply_evaluation(databases.doc_eval, evaluation_of(list(batches), **options), stage=stage)


def rows(databases: Databases) -> Any:
    with databases.doc_eval.connect() as connection:
        return connection.execute(ROWS).one()


def test_applying_again_changes_nothing_and_says_so(databases: Databases, tmp_path: Path) -> None:
    batch = {"name": "a", "folders": [str(tmp_path)], "metadata": {"x": [1, 2.5]}, "include": ["*.pdf"]}
    first = apply(databases, batch)
    before = rows(databases)
    second = apply(databases, batch)
    assert first.changed
    assert first.batches.created == ["a"]
    assert not second.changed
    assert second.batches.unchanged == ["a"]
    assert second.numbers == first.numbers
    assert rows(databases) == before


def test_a_batch_number_is_its_id(databases: Databases, tmp_path: Path) -> None:
    number = apply(databases, {"name": "a", "folders": [str(tmp_path)]}).numbers["a"]
    with databases.doc_eval.connect() as connection:
        assert connection.execute(text("SELECT id, batch_number FROM batches")).all() == [(number, number)]


def test_a_changed_definition_updates_a_batch_that_is_not_sealed(
    databases: Databases, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    apply(databases, {"name": "a", "folders": [str(tmp_path)]})
    applied = apply(databases, {"name": "a", "folders": [str(tmp_path / "other")], "description": "new"})
    assert applied.batches.updated == ["a"]
    assert not apply(
        databases, {"name": "a", "folders": [str(tmp_path / "other")], "description": "new"}
    ).changed


@pytest.mark.parametrize(
    "change",
    [
        {"description": "new"},
        {"metadata": {"a": 1}},
        {"include": ["*.md"]},
        {"exclude": ["*.md"]},
        {"prompts": ["prompt-0"]},
    ],
)
def test_a_sealed_batch_is_not_changed_and_the_line_says_what_to_do(
    databases: Databases, tmp_path: Path, change: dict[str, Any]
) -> None:
    batch = {"name": "a", "folders": [str(tmp_path)]}
    number = apply(databases, batch).numbers["a"]
    seal_batch(databases, number)
    before = rows(databases)
    key = next(iter(change))
    with pytest.raises(EvaluationFileError, match=rf"sealed .* {key} would change: give .* a new name"):
        apply(databases, {**batch, **change}, {"name": "b", "folders": [str(tmp_path)]})
    assert rows(databases) == before
    assert not apply(databases, batch).changed


def test_unknown_connections_and_prompts_are_refused_and_nothing_is_written(
    databases: Databases, tmp_path: Path
) -> None:
    before = rows(databases)
    with pytest.raises(EvaluationFileError) as caught:
        apply(
            databases, {"name": "a", "folders": [str(tmp_path)], "connections": ["gone"], "prompts": ["lost"]}
        )
    assert caught.value.problems == [
        "batches[0].connections[0]: connection 'gone' does not exist: define it under connections",
        "batches[0].prompts[0]: prompt 'lost' does not exist: define it under prompts",
    ]
    assert rows(databases) == before


def test_connections_and_prompts_of_an_earlier_file_can_be_named(
    databases: Databases, tmp_path: Path
) -> None:
    apply(databases)
    located = evaluation_of([{"name": "a", "folders": [str(tmp_path)]}])
    alone = located.evaluation.model_copy(update={"connections": [], "prompts": []})
    applied = apply_evaluation(databases.doc_eval, type(located)(alone, located.where))
    assert applied.batches.created == ["a"]


def test_staging_is_asked_for_once(databases: Databases, tmp_path: Path) -> None:
    batch = {"name": "a", "folders": [str(tmp_path)]}
    assert apply(databases, batch, stage=True).staging_requested == ["a"]
    assert apply(databases, batch, stage=True).staging_requested == []


def test_one_folder_can_be_in_several_batches(databases: Databases, tmp_path: Path) -> None:
    folders = {"folders": [str(tmp_path)]}
    applied = apply(databases, {"name": "a", **folders}, {"name": "b", **folders})
    assert applied.batches.created == ["a", "b"]
    with databases.doc_eval.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM folders")) == 1


def test_prices_and_a_time_to_begin_are_kept_changed_and_compared(
    databases: Databases, tmp_path: Path
) -> None:
    def applied(price: float, moment: str) -> Applied:
        batch = {"name": "a", "folders": [str(tmp_path)], "stage_after": moment}
        located = evaluation_of([batch], connections=1, prompts=1)
        priced = ConnectionDefinition(
            name="model-0", provider="simulation", model="m0", prices=Prices(input_per_million=price)
        )
        evaluation = located.evaluation.model_copy(update={"connections": [priced]})
        return apply_evaluation(databases.doc_eval, Located(evaluation, located.where))

    assert applied(2.5, "2999-01-01T00:00Z").changed
    # The same time in another zone is the same time.
    assert not applied(2.5, "2999-01-01T01:00+01:00").changed
    assert applied(3, "2999-01-01T00:00Z").connections.updated == ["model-0"]
    assert applied(3, "2999-01-02T00:00Z").batches.updated == ["a"]
    with databases.doc_eval.connect() as connection:
        assert read_prices(connection, [1, *connection.scalars(text("SELECT id FROM connections"))]) == {
            connection.scalar(text("SELECT id FROM connections")): Prices(input_per_million=3)
        }
        stored = connection.execute(text("SELECT stage_after, config_snapshot FROM batches")).one()
        assert stored == (datetime(2999, 1, 2, tzinfo=UTC), None)


def test_a_batch_is_found_by_number_key_and_name(databases: Databases, tmp_path: Path) -> None:
    number = apply(databases, {"name": "Q4 contracts", "folders": [str(tmp_path)]}).numbers["Q4 contracts"]
    for wanted in (str(number), f"batch-{number:06d}", "Q4 contracts"):
        assert find_batch(databases.doc_eval, wanted).id == number
    for wanted in ("999999", "q4 contracts", "", "99999999999999"):
        with pytest.raises(UnknownBatch, match="doceval list shows the"):
            find_batch(databases.doc_eval, wanted)


@pytest.mark.parametrize(
    "key", ["", "batch-1", "batch-0000001", "batch-9999999999", "x", "batch-00001a", "batch-000001\n"]
)
def test_a_partition_key_that_was_not_made_from_a_batch_is_refused(key: str) -> None:
    with pytest.raises(UnknownBatch, match="has no batch"):
        batch_id_of(key)


def test_mistakes_of_the_file_and_of_the_database_are_reported_together(
    databases: Databases, tmp_path: Path
) -> None:
    sealed = {"name": "sealed", "folders": [str(tmp_path)]}
    seal_batch(databases, apply(databases, sealed).numbers["sealed"])
    file = tmp_path / "evaluation.yaml"
    file.write_text(
        """\
connections:
  - {name: model-1, provider: p, model: 4}
prompts:
  - {name: clarity, text: x, colour: red}
batches:
  - {name: sealed, folders: [.], connections: [model-0], prompts: [prompt-0]}
  - name: next
    folders: [gone]
    connections: [model-1, model-9, lost]
    prompts: [clarity, lost]
    size: 3
"""
    )
    before = rows(databases)
    with pytest.raises(EvaluationFileError) as caught:
        apply_evaluation(databases.doc_eval, load_evaluation_file(file))
    assert [line.removeprefix(f"{file}:").partition(" (")[0][:70] for line in caught.value.problems] == [
        "2: connections[0].model: must be text: put it in quotes",
        "4: prompts[0].colour: is not a known key: the keys of a prompt are nam",
        "6: batches[0]: batch 'sealed'",
        "8: batches[1].folders[0]: folder 'gone' does not exist",
        "9: batches[1].connections[1]: connection 'model-9' does not exist: did",
        "9: batches[1].connections[2]: connection 'lost' does not exist: define",
        "10: batches[1].prompts[1]: prompt 'lost' does not exist: define it und",
        "11: batches[1].size: is not a known key: the keys of a batch are name,",
    ]
    assert rows(databases) == before


def test_a_sealed_batch_keeps_a_folder_that_was_stored_under_another_spelling(
    databases: Databases, tmp_path: Path
) -> None:
    real = tmp_path.resolve() / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    batch = {"name": "a", "folders": [str(tmp_path / "link")]}
    number = apply(databases, batch).numbers["a"]
    with databases.doc_eval.begin() as connection:
        assert connection.scalar(text("SELECT folder_path FROM folders")) == str(real)
        # As earlier versions stored it.
        connection.execute(text("UPDATE folders SET folder_path = :path"), {"path": str(tmp_path / "link")})
    for seal in (False, True):
        if seal:
            seal_batch(databases, number)
        before = rows(databases)
        for spelling in (tmp_path / "link", real, tmp_path / "link" / ".." / "real"):
            assert not apply(databases, {"name": "a", "folders": [str(spelling)]}).changed
        assert rows(databases) == before
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(EvaluationFileError, match="folders would change"):
        apply(databases, {"name": "a", "folders": [str(real)]})


def test_a_value_stored_by_a_yaml_1_1_reader_is_updated_and_reported(
    databases: Databases, tmp_path: Path
) -> None:
    file = tmp_path / "evaluation.yaml"
    written = "{stop: [No, Yes], temperature: 1e-1, at: 22:30}"
    stored = {"stop": [False, True], "temperature": "1e-1", "at": 1350}
    for config in (json.dumps(stored), written):
        file.write_text(f"connections: [{{name: a, provider: p, model: m, config: {config}}}]")
        applied = apply_evaluation(databases.doc_eval, load_evaluation_file(file))
    assert applied.connections.updated == ["a"]
    assert not apply_evaluation(databases.doc_eval, load_evaluation_file(file)).changed
    with databases.doc_eval.connect() as connection:
        config = connection.scalar(text("SELECT connection_config FROM connections"))
    assert config == {"stop": ["No", "Yes"], "temperature": 0.1, "at": "22:30"}


def test_a_sealed_batch_with_a_missing_folder_is_not_reported_as_changed(
    databases: Databases, tmp_path: Path
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    batch = {"name": "a", "folders": [str(folder)]}
    seal_batch(databases, apply(databases, batch).numbers["a"])
    folder.rmdir()
    with pytest.raises(EvaluationFileError) as caught:
        apply(databases, batch)
    (line,) = caught.value.problems
    assert "does not exist" in line
