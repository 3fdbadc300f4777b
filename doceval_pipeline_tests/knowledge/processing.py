"""What a processor does with the functions, for tests: each call in a transaction of its own."""

import time
from typing import Any

from sqlalchemy import Engine, Row, text

CLAIM = text("SELECT * FROM claim_responses(:rows, CAST(:lease AS interval), :worker)")
# Long enough for the statements around it, and short enough to wait for its end.
SHORT = "50 milliseconds"


def claim(engine: Engine, rows: int = 1, lease: str = "1 hour", worker: str = "w") -> list[Row[Any]]:
    """Claim rows."""
    with engine.begin() as connection:
        # Whatever somebody else holds, a claim does not wait for it.
        connection.execute(text("SET LOCAL statement_timeout = '20 s'"))
        return list(connection.execute(CLAIM, {"rows": rows, "lease": lease, "worker": worker}))


def claim_and_die(engine: Engine, rows: int = 1) -> list[Row[Any]]:
    """Claim rows and return once the lease is over."""
    claimed = claim(engine, rows, SHORT)
    time.sleep(0.06)
    return claimed


def call(engine: Engine, function: str, *arguments: Any, **named: Any) -> tuple[bool, str]:
    """Call `heartbeat_response` and so on: whether it changed anything, and its sentence."""
    positional = {f"p{number}": value for number, value in enumerate(arguments)}
    given = ", ".join([*(f":{name}" for name in positional), *(f"{name} => :{name}" for name in named)])
    with engine.begin() as connection:
        row = connection.execute(
            text(f"SELECT changed, message FROM {function}_response({given})"), positional | named
        ).one()
    return row.changed, row.message
