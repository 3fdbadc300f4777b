"""What the page calls things that figures know by number."""

from collections.abc import Sequence

from doceval_pipeline.reports.model import ReportColumn


class Names:
    """Columns, connections and prompts by their ids; one that nobody listed is called by its number."""

    def __init__(self, columns: Sequence[ReportColumn]) -> None:
        self._columns = {(column.connection_id, column.prompt_id): column for column in columns}
        self._connections = {column.connection_id: column.connection for column in columns}
        self._prompts = {column.prompt_id: column.prompt for column in columns}

    def column(self, connection_id: int, prompt_id: int) -> ReportColumn:
        """A column with its names."""
        known = self._columns.get((connection_id, prompt_id))
        return known or ReportColumn(
            connection_id, self.connection(connection_id), prompt_id, self.prompt(prompt_id)
        )

    def connection(self, id_: int) -> str:
        """The name of a connection."""
        return self._connections.get(id_, f"connection {id_}")

    def prompt(self, id_: int) -> str:
        """The name of a prompt."""
        return self._prompts.get(id_, f"prompt {id_}")
