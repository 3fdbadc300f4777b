"""A disk that is too small for the documents, and can be enlarged.

If this user may mount file systems, documents are stored on one of 24 MiB; the server's WAL is elsewhere, so
that the server keeps running. Otherwise the size of the server's files is limited, which fails in the same
place as a full disk.
"""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import psutil

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.running import query

ROOM = 24 * 1024 * 1024
ROOM_ENOUGH = 256 * 1024 * 1024


class Disk(Protocol):
    """The disk of the documents; `line` is the error message when it is full."""

    line: ClassVar[str]

    def enlarge(self) -> None:
        """Makes it large enough."""


@dataclass(frozen=True)
class MountedDisk:
    """A separate file system in memory."""

    line: ClassVar[str] = (
        "the disk of the database server is full .*No space left on device.*: free space on it"
    )

    folder: Path

    def enlarge(self) -> None:
        subprocess.run(
            ["mount", "-o", f"remount,size={ROOM_ENOUGH}", str(self.folder)], check=True, capture_output=True
        )


@dataclass(frozen=True)
class LimitedFiles:
    """Limits the size of the server's files; new backends inherit the limit of the postmaster."""

    line: ClassVar[str] = "the database refused: could not .*: File too large"

    postmaster: psutil.Process

    def limit(self, size: int) -> None:
        for process in (self.postmaster, *self.postmaster.children()):
            _, hard = process.rlimit(resource.RLIMIT_FSIZE)
            process.rlimit(resource.RLIMIT_FSIZE, (size, hard))

    def enlarge(self) -> None:
        _, hard = self.postmaster.rlimit(resource.RLIMIT_FSIZE)
        self.limit(hard)


@contextmanager
def small_disk(server: EmbeddedServer, folder: Path) -> Iterator[Disk]:
    """Makes the server store documents on a disk of `ROOM` bytes."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0:
        try:
            with _docs_on(server, folder):
                yield MountedDisk(folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:
        disk = LimitedFiles(postmaster(server))
        disk.limit(ROOM)
        try:
            yield disk
        finally:
            disk.enlarge()


def postmaster(server: EmbeddedServer) -> psutil.Process:
    """The server's first process."""
    return psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))


@contextmanager
def _docs_on(server: EmbeddedServer, folder: Path) -> Iterator[None]:
    owner = server.data.stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    folder.chmod(0o700)
    query(server.home, f"CREATE TABLESPACE small LOCATION '{folder}'")
    query(server.home, "ALTER TABLE docs SET TABLESPACE small")
    try:
        yield
    finally:
        query(server.home, "ALTER TABLE docs SET TABLESPACE pg_default")
        query(server.home, "DROP TABLESPACE small")
