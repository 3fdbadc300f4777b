"""Labels of columns and batches that figures know by id, and of the origins of reused results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.reports.model import ReportColumn, ReportFigures

ELSEWHERE = "another installation"
"""Where results come from whose batch is unknown here, because they were restored from its archive."""


def origins_text(batches: int, *, is_elsewhere: bool) -> str:
    """Where reused results come from: "2 batches and another installation"."""
    places = [counted(batches, "batch", "batches")] if batches else []
    return " and ".join([*places, *([ELSEWHERE] if is_elsewhere else [])])


def origin_label(batch_id: int) -> str:
    """The partition key of a batch that results were reused from; 0 is another installation."""
    return f"batch-{batch_id:06d}" if batch_id else ELSEWHERE


class ColumnLabels:
    """Names of columns, connections and prompts by id; an unlisted one is named by its id."""

    def __init__(self, columns: Sequence[ReportColumn]) -> None:
        self._columns = {(column.connection_id, column.prompt_id): column for column in columns}
        self._connections = {column.connection_id: column.connection for column in columns}
        self._prompts = {column.prompt_id: column.prompt for column in columns}

    @classmethod
    def of(cls, figures: ReportFigures) -> Self:
        """The names of the columns of a report."""
        return cls([column.column for column in figures.columns])

    def column(self, connection_id: int, prompt_id: int) -> ReportColumn:
        """A column with its names."""
        known = self._columns.get((connection_id, prompt_id))
        return known or ReportColumn(
            connection_id, self.connection(connection_id), prompt_id, self.prompt(prompt_id)
        )

    def connection(self, connection_id: int) -> str:
        """The name of a connection."""
        return self._connections.get(connection_id, f"connection {connection_id}")

    def prompt(self, prompt_id: int) -> str:
        """The name of a prompt."""
        return self._prompts.get(prompt_id, f"prompt {prompt_id}")


@dataclass(frozen=True, slots=True)
class Words:
    """The word for a connection that people read in a report."""

    one: str
    many: str


MODEL_WORDS = Words("model", "models")
CONNECTION_WORDS = Words("connection", "connections")


def connection_words(config: Mapping[str, Any]) -> Words:
    """ "model" if each model of a sealed configuration has exactly one connection, else "connection"."""
    connections = config.get("connections")
    if not isinstance(connections, list) or not connections:
        return CONNECTION_WORDS
    models = [item.get("model_name") if isinstance(item, Mapping) else None for item in connections]
    is_known = all(isinstance(model, str) and model for model in models)
    return MODEL_WORDS if is_known and len(set(models)) == len(models) else CONNECTION_WORDS
