"""One supervisor per home: a lock that ends with its process, and a file that names its holder."""

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

import psutil

from doceval_pipeline.errors import ConfigurationError

# Longer than clearing up after a killed supervisor takes.
SECONDS_TO_WAIT = 40
_SECONDS_BETWEEN_TRIES = 0.1
_MAX_BYTES = 10_000


@dataclass(frozen=True)
class HomeHolder:
    """Holder of the lock: its process, its command, and the address of its webserver once that answers."""

    pid: int
    command: str
    url: str | None = None

    @property
    def sentence(self) -> str:
        """Its process id and address, in parentheses."""
        return f"(pid {self.pid}{f', {self.url}' if self.url else ''})"

    def process(self, home: Path) -> psutil.Process | None:
        """The process that holds the lock of a home; None unless that process has the file open.

        Other programs can lock the file and write into it, too.
        """
        try:
            lock, process = (home / "up.lock").stat(), psutil.Process(self.pid)
            opened = [os.stat(file.path) for file in process.open_files()]
        except (psutil.Error, OSError):
            return None
        return process if any(os.path.samestat(file, lock) for file in opened) else None


class HomeLock:
    """The lock of one home; a context manager that holds it.

    Parameters
    ----------
    home
        The folder, which must exist when the lock is taken.
    command
        The command that holds it, such as `doceval up`.
    """

    def __init__(self, home: Path, command: str) -> None:
        self._home = home
        self._path = home / "up.lock"
        self._own = HomeHolder(os.getpid(), command)
        self._descriptor: int | None = None

    def __enter__(self) -> "HomeLock":
        """Take the lock, without naming the holder yet.

        Raises
        ------
        ConfigurationError
            Another process holds it, or the file system has no locks.
        OSError
            The lock file cannot be created.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._await(descriptor)
            # A killed holder left its process number, which may belong to another program now.
            os.truncate(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.truncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def write_holder(self, url: str | None = None) -> None:
        """Write the holder into the lock file.

        A process that clears up does not, so that others wait for it.
        """
        if self._descriptor is not None:
            self._own = replace(self._own, url=url)
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(asdict(self._own)).encode(), 0)

    def _await(self, descriptor: int) -> None:
        """Wait for a process that clears up, but not for a living supervisor."""
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while not _taken(descriptor, self._home):
            holder = _read(descriptor)
            is_over = time.monotonic() > deadline
            if is_over or (holder is not None and psutil.pid_exists(holder.pid)):
                who = "another process is active" if holder is None else f"{holder.command} already runs"
                where = "" if holder is None else f" {holder.sentence}"
                raise ConfigurationError(
                    f"{who} for {self._home}{where}: use it, or stop it first with doceval down"
                )
            time.sleep(_SECONDS_BETWEEN_TRIES)  # the release of a lock sends no signal


def holder_of(home: Path) -> HomeHolder | None:
    """The living supervisor of a home; None if there is none or its lock file cannot be read."""
    try:
        descriptor = os.open(home / "up.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        # If the lock is free, a supervisor that was killed wrote the file.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read(descriptor)
    finally:
        os.close(descriptor)
    return None


def _taken(descriptor: int, home: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigurationError(
            f"files in {home} cannot be locked ({error.strerror}): set DOCEVAL_HOME to a folder on a "
            "local disk"
        ) from None
    return True


def _read(descriptor: int) -> HomeHolder | None:
    try:
        holder = HomeHolder(**json.loads(os.pread(descriptor, _MAX_BYTES, 0)))
    except (ValueError, TypeError, RecursionError):
        return None
    return holder if isinstance(holder.pid, int) and 0 < holder.pid < 2**31 else None
