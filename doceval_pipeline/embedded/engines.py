"""Connections of SQLAlchemy's engines to embedded servers, those of the engines that Dagster makes too."""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from doceval_pipeline.embedded.server import EmbeddedServer

_servers: dict[Path, EmbeddedServer] = {}


def guard(server: EmbeddedServer) -> None:
    """From now on, all engines of this process reach a server by `EmbeddedServer.connect`."""
    _servers[server.home] = server
    # For all engines: Dagster's storages replace theirs as they like.
    if not event.contains(Engine, "do_connect", _connect):
        event.listen(Engine, "do_connect", _connect)


def _connect(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> Any:
    """What SQLAlchemy calls for each new connection; None leaves it to SQLAlchemy."""
    return connect_to_guarded(parameters)


def connect_to_guarded(parameters: dict[str, Any]) -> Any:
    """A connection of the driver, by its parameters, if they name a guarded server; None otherwise."""
    for server in list(_servers.values()):
        if server.is_reached_by(parameters.get("host")):
            return server.connect(**parameters)
    return None
