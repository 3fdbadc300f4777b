"""The sealed configuration: its bytes, what is in it, and what is not."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.steps import seal_batch
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.snapshot import edited_since, read_snapshot
from doceval_pipeline.domain.snapshot import Snapshot

# As versions before the margin wrote it.
WITHOUT = (
    '{{"batch":{{"description":"All","exclude":[],"id":{batch},"include":["*.pdf"],"metadata":{{"é":1}},'
    '"name":"contracts"}},"connections":[{{"api_key_env":"SOME_KEY","base_url":null,'
    '"connection_config":{{"temperature":0}},"id":{connection},"model_name":"m","name":"c","port_no":null,'
    '"provider_type":"openai"}}],"folders":[{{"id":{folder},"path":"{path}"}}],'
    '"prompts":[{{"id":{prompt},"name":"clarity","text":"How clear?"}}],"version":1}}'
)
IDS = text("""
    SELECT b.id AS batch, c.id AS connection, f.id AS folder, f.folder_path AS path, p.id AS prompt
    FROM batches b, connections c, folders f, prompts p
""")


def apply(databases: Databases, folder: Path, criterion: dict[str, Any], **keys: Any) -> int:
    content = {
        "connections": [
            {
                "name": "c",
                "provider": "openai",
                "model": "m",
                "api_key_env": "SOME_KEY",
                "config": {"temperature": 0},
            }
        ],
        "prompts": [{"name": "clarity", "text": "How clear?", **criterion}],
        "batches": [
            {
                "name": "contracts",
                "folders": [str(folder)],
                "connections": ["c"],
                "prompts": ["clarity"],
                "description": "All",
                "metadata": {"é": 1},
                "include": ["*.pdf"],
                **keys,
            }
        ],
    }
    (number,) = apply_evaluation(databases.doc_eval, locate(content, None, key_path)).numbers.values()
    return number


def sealed(databases: Databases, number: int) -> Snapshot:
    seal_batch(databases, number)
    with databases.doc_eval.connect() as connection:
        snapshot = read_snapshot(connection, number)
    assert snapshot is not None
    return snapshot


def without_margin(databases: Databases) -> str:
    with databases.doc_eval.connect() as connection:
        return WITHOUT.format(**connection.execute(IDS).one()._mapping)


@pytest.mark.parametrize("keys", [{}, {"margin": None}])
@pytest.mark.parametrize("criterion", [{}, {"threshold": 60, "weight": 2}])
def test_without_a_margin_the_bytes_are_those_of_earlier_versions(
    databases: Databases, tmp_path: Path, criterion: dict[str, Any], keys: dict[str, Any]
) -> None:
    snapshot = sealed(databases, apply(databases, tmp_path, criterion, **keys))
    assert snapshot.canonical == without_margin(databases)
    assert snapshot.sha256 == hashlib.sha256(without_margin(databases).encode()).hexdigest()


@pytest.mark.parametrize(
    ("margin", "written"), [(3, "3"), (3.0, "3"), (2.5, "2.5"), (0.1, "0.1"), (1e-7, "1e-07"), (100, "100")]
)
def test_a_margin_is_sealed_with_the_batch_as_a_number(
    databases: Databases, tmp_path: Path, margin: float, written: str
) -> None:
    number = apply(databases, tmp_path, {}, margin=margin)
    snapshot = sealed(databases, number)
    expected = without_margin(databases).replace('"metadata"', f'"margin":{written},"metadata"')
    assert snapshot.canonical == expected
    assert snapshot.config["batch"]["margin"] == margin
    with databases.doc_eval.connect() as connection:
        assert batch_by_id(connection, number).margin == margin
    with databases.knowledge.connect() as connection:
        published = connection.scalar(text("SELECT config -> 'batch' -> 'margin' FROM batch_configs"))
    assert published == margin
    # Applying the same margin again is no change of a sealed batch.
    apply(databases, tmp_path, {}, margin=float(margin))


def test_threshold_and_weight_are_no_edit_of_a_sealed_prompt(databases: Databases, tmp_path: Path) -> None:
    number = apply(databases, tmp_path, {"threshold": 60})
    snapshot = sealed(databases, number)
    apply(databases, tmp_path, {"threshold": 70, "weight": 3})
    with databases.doc_eval.connect() as connection:
        assert edited_since(connection, number, snapshot) == []
    apply(databases, tmp_path, {"text": "How clear is it?"})
    with databases.doc_eval.connect() as connection:
        assert edited_since(connection, number, snapshot) == [("prompt", "clarity")]
