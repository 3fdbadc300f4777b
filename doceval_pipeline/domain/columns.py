"""Columns of a batch (a connection with a prompt), and their names for people."""

from collections.abc import Mapping
from dataclasses import dataclass

Column = tuple[int, int]
"""A connection and a prompt, by their ids."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Names of connections and prompts, by id."""

    connections: Mapping[int, str]
    prompts: Mapping[int, str]

    def connection(self, connection_id: int) -> str:
        """The name of a connection; "connection 7" if it does not exist here."""
        return self.connections.get(connection_id, f"connection {connection_id}")

    def prompt(self, prompt_id: int) -> str:
        """The name of a prompt; "prompt 7" if it does not exist here."""
        return self.prompts.get(prompt_id, f"prompt {prompt_id}")
