"""Guarded connections of SQLAlchemy engines to embedded servers, including Dagster's engines."""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from doceval_pipeline.embedded.server import EmbeddedServer

_servers: dict[Path, EmbeddedServer] = {}


def guard(server: EmbeddedServer) -> None:
    """Make all engines of this process connect to a server with `EmbeddedServer.connect`."""
    _servers[server.home] = server
    # For all engines, because Dagster's storages create new ones.
    if not event.contains(Engine, "do_connect", _connect):
        event.listen(Engine, "do_connect", _connect)


def _connect(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> Any:
    """Called by SQLAlchemy for each new connection; None leaves it to SQLAlchemy."""
    return connect_to_guarded(parameters)


def connect_to_guarded(parameters: dict[str, Any]) -> Any:
    """A driver connection if the parameters name a guarded server; otherwise None."""
    for server in list(_servers.values()):
        if server.is_reached_by(parameters.get("host")):
            return server.connect(**parameters)
    return None
