"""Pieces of work for the harness to run, so small that only their results matter."""

from typing import Any

from sqlalchemy import text

from benchmarks.child import Figures, Timed
from doceval_pipeline.batches.databases import Databases


def write_rows(databases: Databases, rows: int) -> Timed:
    def timed() -> Figures:
        with databases.knowledge.begin() as connection:
            connection.execute(text("INSERT INTO counted SELECT generate_series(1, :rows)"), {"rows": rows})
        return {"rows": rows}

    return timed


def hold_memory(databases: Databases, mib: int) -> Timed:
    def timed() -> Figures:
        return {"bytes": len(bytearray(mib * 1024 * 1024))}

    return timed


def fail(databases: Databases, **_: Any) -> Timed:
    def timed() -> Figures:
        raise ValueError("no")

    return timed
