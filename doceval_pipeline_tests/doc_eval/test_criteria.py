"""Threshold and weight of prompts, as reports read them."""

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.criteria import read_criteria
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.domain.criteria import Criterion

UNKNOWN = 2**31 - 1


def test_criteria_are_the_newest_that_were_applied(databases: Databases) -> None:
    def apply(**keys: float | None) -> dict[int, Criterion]:
        prompts = [{"name": "clarity", "text": "How clear?", **keys}, {"name": "tone", "text": "How kind?"}]
        apply_evaluation(databases.doc_eval, locate({"prompts": prompts}, None, key_path))
        with databases.doc_eval.connect() as connection:
            ids = connection.scalars(text("SELECT id FROM prompts ORDER BY name")).all()
            return read_criteria(connection, [*ids, UNKNOWN])

    assert list(apply().values()) == [Criterion(), Criterion(), Criterion()]
    assert list(apply(threshold=60, weight=2).values()) == [Criterion(60, 2), Criterion(), Criterion()]
    assert list(apply(threshold=0).values()) == [Criterion(0, 2), Criterion(), Criterion()]
    found = apply(weight=None)
    assert list(found.values()) == [Criterion(0, None), Criterion(), Criterion()]
    assert list(found)[2] == UNKNOWN


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("threshold", value) for value in ("-0.001", "100.001", "NaN", "Infinity", "-Infinity")),
        *(("weight", value) for value in ("0", "-1", "1000000.1", "NaN", "Infinity")),
    ],
)
def test_impossible_values_cannot_be_stored_and_count_as_none_if_they_were(
    databases: Databases, column: str, value: str
) -> None:
    insert = text(
        f"INSERT INTO prompts (name, prompt_text, {column}) VALUES ('p', 'q', '{value}') RETURNING id"
    )
    with databases.doc_eval.connect() as connection, connection.begin() as transaction:
        with pytest.raises(Exception, match=f"prompts_{column}_check"), connection.begin_nested():
            connection.execute(insert)
        connection.execute(text(f"ALTER TABLE prompts DROP CONSTRAINT prompts_{column}_check"))
        number = connection.scalar(insert)
        assert read_criteria(connection, [number]) == {number: Criterion()}
        transaction.rollback()


def test_nothing_is_read_for_no_prompts(databases: Databases) -> None:
    with databases.doc_eval.connect() as connection:
        assert read_criteria(connection, []) == {}
