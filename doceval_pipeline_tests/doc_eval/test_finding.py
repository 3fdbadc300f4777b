"""Which batches the words of a command name: numbers, keys, names and shell patterns."""

from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.cli.selection import select
from doceval_pipeline.doc_eval.batches import find_batch, find_batches, partition_key
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.errors import UnknownBatch
from doceval_pipeline_tests.conftest import evaluation_of

NAMES = ("contracts-q1", "contracts-q2", "invoices", "what?", "whats", "[old] letters")


@pytest.fixture
def numbers(databases: Databases, tmp_path: Path) -> dict[str, int]:
    """Batches of these names, by name."""
    batches = [{"name": name, "folders": [str(tmp_path)]} for name in NAMES]
    return apply_evaluation(databases.doc_eval, evaluation_of(batches)).numbers


def named(databases: Databases, *words: str, with_archived: bool = False) -> tuple[list[str], list[str]]:
    found, unknown = find_batches(databases.doc_eval, words, with_archived=with_archived)
    return [batch.name for batch in found], [str(error) for error in unknown]


def test_each_batch_is_found_once_in_the_order_of_the_words(
    databases: Databases, numbers: dict[str, int]
) -> None:
    number = numbers["contracts-q2"]
    words = ["invoices", str(number), "contracts-*", partition_key(number), "contracts-q1", "invoices"]
    assert named(databases, *words) == (["invoices", "contracts-q2", "contracts-q1"], [])
    assert named(databases, "batch-*") == (list(NAMES), [])
    assert named(databases, "*-q[12]") == (["contracts-q1", "contracts-q2"], [])


def test_a_name_that_has_the_characters_of_a_pattern_names_its_batch_alone(
    databases: Databases, numbers: dict[str, int]
) -> None:
    assert named(databases, "what?") == (["what?"], [])
    assert named(databases, "[old] letters") == (["[old] letters"], [])
    assert named(databases, "what[?s]") == (["what?", "whats"], [])


def test_a_number_may_be_as_wide_as_its_column(databases: Databases, numbers: dict[str, int]) -> None:
    with databases.doc_eval.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO batches (id, batch_number, batch_name) OVERRIDING SYSTEM VALUE "
                "VALUES (2147483647, 2147483647, 'last'), (1000000000, 1000000000, 'wide')"
            )
        )
    found, unknown = named(databases, "2147483647", "batch-1000000000", "2147483648", "9999999999")
    assert found == ["last", "wide"]
    assert len(unknown) == 2


def test_a_word_without_a_batch_is_an_error_and_the_others_are_found(
    databases: Databases, numbers: dict[str, int]
) -> None:
    found, unknown = named(databases, "CONTRACTS-*", "invoices", "nobody", "999999")
    assert found == ["invoices"]
    assert unknown == [
        "no batch matches 'CONTRACTS-*': doceval list shows the batches",
        "batch 'nobody' does not exist: doceval list shows the batches",
        "batch '999999' does not exist: doceval list shows the batches",
    ]


def test_a_pattern_leaves_archived_batches_out_unless_they_are_wanted(
    databases: Databases, numbers: dict[str, int]
) -> None:
    archive = text(
        "UPDATE batches SET archived_at = now(), archive_file = 'f', archive_sha256 = repeat('0', 64), "
        "config_snapshot = '{}', config_sha256 = repeat('0', 64), status = 'COMPLETED', expected_cells = 1 "
        "WHERE batch_name = 'contracts-q1'"
    )
    with databases.doc_eval.begin() as connection:
        connection.execute(archive)
    assert named(databases, "contracts-*") == (["contracts-q2"], [])
    assert named(databases, "contracts-*", with_archived=True)[0] == ["contracts-q1", "contracts-q2"]
    assert named(databases, "contracts-q1")[0] == ["contracts-q1"]
    assert named(databases, "*-q1")[1] == [
        "all batches that match '*-q1' are archived (1): doceval restore brings one back"
    ]


def test_words_and_patterns_find_names_in_any_unicode_form(databases: Databases, tmp_path: Path) -> None:
    folders = {"folders": [str(tmp_path)]}
    made = evaluation_of([{"name": "Prüfung", **folders}, {"name": "Äpfel [neu]", **folders}])
    apply_evaluation(databases.doc_eval, made)
    forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
    for form in forms:
        word = normalize(form, "Prüfung")
        assert named(databases, word) == (["Prüfung"], [])
        assert find_batch(databases.doc_eval, word).name == "Prüfung"
        assert named(databases, normalize(form, "Prü*")) == (["Prüfung"], [])
        assert named(databases, normalize(form, "P?üfung")) == (["Prüfung"], [])
        assert named(databases, normalize(form, "[ÄÖ]pfel*")) == (["Äpfel [neu]"], [])
        assert select(databases.doc_eval, [normalize(form, "Äpfel [neu]")]).is_one
        with databases.doc_eval.begin() as connection:
            connection.execute(text("UPDATE batches SET batch_name = normalize(batch_name, NFD)"))
        assert find_batch(databases.doc_eval, "Prüfung").name == normalize("NFD", "Prüfung")
        with databases.doc_eval.begin() as connection:
            connection.execute(text("UPDATE batches SET batch_name = normalize(batch_name, NFC)"))
    assert named(databases, "prüfung", "PRÜ*")[0] == []


def test_of_names_that_read_alike_the_one_as_it_is_typed_is_found_or_none(
    databases: Databases, tmp_path: Path
) -> None:
    apply_evaluation(databases.doc_eval, evaluation_of([{"name": "Prüfung", "folders": [str(tmp_path)]}]))
    with databases.doc_eval.begin() as connection:
        connection.execute(text("DROP INDEX batches_one_per_name"))
    try:
        with databases.doc_eval.begin() as connection:
            ids = connection.scalars(
                text("""
                INSERT INTO batches (id, batch_number, batch_name)
                SELECT id + n, id + n, name
                FROM (SELECT max(id) AS id FROM batches) AS newest,
                     (VALUES (1, E'a\\u0323\\u0302'), (2, E'\\u1ea1\\u0302')) AS two(n, name) RETURNING id
            """)
            ).all()
        assert named(databases, "a\u0323\u0302")[0] == ["a\u0323\u0302"]
        problem = (
            f"batches {ids[0]} and {ids[1]} have the name '\u1ead' in different Unicode forms: use a number"
        )
        assert named(databases, "\u1ead") == ([], [problem])
        with pytest.raises(UnknownBatch, match="use a number"):
            find_batch(databases.doc_eval, "\u1ead")
    finally:
        with databases.doc_eval.begin() as connection:
            connection.execute(text("TRUNCATE batches CASCADE"))
            connection.execute(
                text("CREATE UNIQUE INDEX batches_one_per_name ON batches (normalize(batch_name, NFC))")
            )


def test_a_word_that_is_no_text_names_no_batch(databases: Databases, numbers: dict[str, int]) -> None:
    assert named(databases, "\udcff", "a\0")[0] == []
