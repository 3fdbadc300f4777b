"""Measures the CPU, WAL and memory use of a benchmark's server. Changes nothing.

When a process is reaped, the kernel adds its CPU time to the account of its parent. The accounts of the
postmaster and of its living children together are therefore complete, however many connections were closed.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text

from doceval_pipeline.embedded.server import EmbeddedServer

_WAL = text("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Positions behind the command's name in /proc/PID/stat, which ends with a parenthesis.
_OWN_TIMES = slice(11, 13)
_TIMES_OF_REAPED = slice(13, 15)


@dataclass(frozen=True)
class ServerMeter:
    """Reads the meters of one embedded server.

    Parameters
    ----------
    home
        The `DOCEVAL_HOME` of the server.
    """

    home: Path

    @property
    def postmaster(self) -> int:
        """The process number of the server's first process."""
        return int((EmbeddedServer(self.home).data / "postmaster.pid").read_text().split("\n", 1)[0])

    def cpu_seconds(self) -> float:
        """CPU time of all processes of the server since its start, including ended ones."""
        postmaster = self.postmaster
        ticks = sum(_ticks(postmaster, _OWN_TIMES)) + sum(_ticks(postmaster, _TIMES_OF_REAPED))
        ticks += sum(sum(_ticks(child, _OWN_TIMES)) for child in children(postmaster))
        return ticks / _TICKS_PER_SECOND

    def private_bytes(self) -> list[int]:
        """The current memory of each of the server's processes, without shared buffers."""
        return [status_bytes(child, "RssAnon") for child in children(self.postmaster)]


def tree_cpu_seconds(process: int) -> float:
    """CPU time of a process and of all its descendants since their start, including ended ones.

    Orphans that have ended are not counted.
    """
    ticks = 0
    for one in (process, *descendants(process)):
        ticks += sum(_ticks(one, _OWN_TIMES)) + sum(_ticks(one, _TIMES_OF_REAPED))
    return ticks / _TICKS_PER_SECOND


def wal_position(engine: Engine) -> int:
    """Bytes of WAL that the server has written since it was created."""
    with engine.connect() as connection:
        return int(connection.execute(_WAL).scalar_one())


def children(process: int) -> Iterator[int]:
    """The process numbers of a process's living children."""
    # A child belongs to the thread that started it.
    for task in Path(f"/proc/{process}/task").glob("*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, (task / "children").read_text().split())


def descendants(process: int) -> Iterator[int]:
    """The process numbers of all living descendants of a process."""
    for child in children(process):
        yield child
        yield from descendants(child)


def status_bytes(process: int, name: str) -> int:
    """A memory figure of a process from /proc/PID/status in bytes; 0 once the process has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _ticks(process: int, which: slice) -> list[int]:
    try:
        account = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in account.rpartition(")")[2].split()[which]]
