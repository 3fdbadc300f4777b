"""One supervisor per home: a lock that ends with its process, and a file that says who holds it."""

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

# Longer than a process that clears up after a killed supervisor holds the lock.
SECONDS_TO_WAIT = 40
_SECONDS_BETWEEN_LOOKS = 0.1
_MOST_BYTES = 10_000


@dataclass(frozen=True)
class Holder:
    """Who holds the lock: its process, its command, and the address of its webserver once that answers."""

    pid: int
    command: str
    url: str | None = None

    @property
    def sentence(self) -> str:
        """Its process and address, in a few words."""
        return f"(pid {self.pid}{f', {self.url}' if self.url else ''})"

    def process(self, home: Path) -> psutil.Process | None:
        """The process that holds the lock of a home; None where one of that number does not have it open.

        Others, too, can lock the file and write into it.
        """
        try:
            lock, found = (home / "up.lock").stat(), psutil.Process(self.pid)
            opened = [os.stat(file.path) for file in found.open_files()]
        except (psutil.Error, OSError):
            return None
        return found if any(os.path.samestat(file, lock) for file in opened) else None


class HomeLock:
    """The lock of one home; a context manager that holds it.

    Parameters
    ----------
    home
        The folder, which must exist by the time that the lock is taken.
    command
        What holds it, such as `doceval up`.
    """

    def __init__(self, home: Path, command: str) -> None:
        self._home = home
        self._path = home / "up.lock"
        self._own = Holder(os.getpid(), command)
        self._descriptor: int | None = None

    def __enter__(self) -> "HomeLock":
        """Take the lock; it is not said yet who holds it.

        Raises
        ------
        ConfigurationError
            Another process holds it, or the file system has no locks.
        OSError
            The lock's file cannot be made.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._await(descriptor)
            # A killed holder left its number, which may be another program's by now.
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

    def tell(self, url: str | None = None) -> None:
        """Write who holds the lock. One that clears up says nothing, and is waited for."""
        if self._descriptor is not None:
            self._own = replace(self._own, url=url)
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(asdict(self._own)).encode(), 0)

    def _await(self, descriptor: int) -> None:
        """Wait for a process that clears up; a supervisor that lives is not waited for."""
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while not _taken(descriptor, self._home):
            holder = _read(descriptor)
            is_over = time.monotonic() > deadline
            if is_over or (holder is not None and psutil.pid_exists(holder.pid)):
                who = "another process works" if holder is None else f"{holder.command} already runs"
                where = "" if holder is None else f" {holder.sentence}"
                raise ConfigurationError(
                    f"{who} for {self._home}{where}: use it, or end it by doceval down first"
                )
            time.sleep(_SECONDS_BETWEEN_LOOKS)  # a lock that ends tells nobody


def holder_of(home: Path) -> Holder | None:
    """The supervisor of a home that lives; None where there is none, or where its lock cannot be read."""
    try:
        descriptor = os.open(home / "up.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        # The lock is gone: what the file says is of a supervisor that was killed.
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
            f"files in {home} cannot be locked ({error.strerror}): set DOCEVAL_HOME to a folder on a disk of "
            "this machine"
        ) from None
    return True


def _read(descriptor: int) -> Holder | None:
    try:
        said = json.loads(os.pread(descriptor, _MOST_BYTES, 0))
        found = Holder(**said)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found.pid, int) and 0 < found.pid < 2**31 else None
