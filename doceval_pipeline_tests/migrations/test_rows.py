"""Rows of an earlier revision fit into the tables of today."""

import json
import threading
from typing import Any

import pytest
from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.migrations.rows import insert_rows, read_lines, read_value, reserve_ids

NEXT = text("INSERT INTO prompts (name, prompt_text) VALUES (:name, 'x') RETURNING id")


def prompt(number: int, **more: Any) -> bytes:
    return json.dumps({"id": number, "name": f"p{number}", "prompt_text": "why?", **more}).encode() + b"\n"


def insert(connection: Connection, table: str, pieces: list[bytes]) -> None:
    read_lines(connection, "lines", pieces)
    insert_rows(connection, table, "SELECT line FROM lines")


def test_a_column_that_a_row_does_not_have_gets_its_default(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        insert(connection, "prompts", [prompt(1), prompt(2)])
        found = connection.execute(text("SELECT id, name, created_at = now() FROM prompts ORDER BY id")).all()
        assert found == [(1, "p1", True), (2, "p2", True)]
        connection.rollback()


def test_what_a_table_has_no_column_for_is_left_out(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        insert(connection, "prompts", [prompt(1, **{'"; DROP TABLE prompts; --': 1, "other": None})])
        assert connection.scalar(text("SELECT count(*) FROM prompts")) == 1
        connection.rollback()


def test_no_rows_are_no_statement(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        insert(connection, "no such table", [])


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_lines_come_in_pieces_of_any_size(databases: Databases, size: int) -> None:
    told = '\\."\n\t\x7f\u2028 ,|'
    lines = b"".join(prompt(number, prompt_text=told) for number in range(1, 8))
    pieces = [lines[place : place + size] for place in range(0, len(lines), size)]
    with databases.doc_eval.begin() as connection:
        insert(connection, "prompts", pieces)
        assert connection.execute(text("SELECT DISTINCT prompt_text FROM prompts")).all() == [(told,)]
        assert connection.scalar(text("SELECT count(*) FROM prompts")) == 7
        connection.rollback()


def test_a_value_may_have_line_breaks(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        read_value(connection, "value", [b'{\n "prompt":', b"\n" + prompt(1) + b"}\n"])
        insert_rows(connection, "prompts", "SELECT line -> 'prompt' AS line FROM value")
        assert connection.scalar(text("SELECT name FROM prompts")) == "p1"
        connection.rollback()


def test_ids_are_reserved_once_and_never_given_back(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        first = connection.execute(NEXT, {"name": "a"}).scalar_one()
    with databases.doc_eval.begin() as connection:
        reserve_ids(connection, "prompts", first + 100)
        reserve_ids(connection, "prompts", first + 50)
    with databases.doc_eval.begin() as connection:
        assert connection.execute(NEXT, {"name": "b"}).scalar_one() == first + 101


def test_reserving_ids_waits_for_a_session_that_takes_one(databases: Databases) -> None:
    with databases.doc_eval.connect() as other:
        transaction = other.begin()
        taken = other.execute(NEXT, {"name": "other"}).scalar_one()
        reserved = threading.Event()

        def reserve() -> None:
            with databases.doc_eval.begin() as connection:
                reserve_ids(connection, "prompts", taken + 5)
                reserved.set()

        thread = threading.Thread(target=reserve)
        thread.start()
        assert not reserved.wait(0.3)
        assert other.execute(NEXT, {"name": "another"}).scalar_one() == taken + 1
        transaction.commit()
        thread.join()
    with databases.doc_eval.begin() as connection:
        assert connection.execute(NEXT, {"name": "later"}).scalar_one() == taken + 6
