"""Lists every entry of a folder of strangers, with the reason for each that cannot be used.

Nothing below the folder is followed, nothing outside it is read, and nothing is read at all: what
an entry is, is found by its directory entry, `fstat` and an `open` that cannot block. Works on
trees of any depth, which `os.walk` does not, and leaves out nothing silently, which it does.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from doceval_pipeline.documents.barred import REASONS, Barred, Identity
from doceval_pipeline.documents.litter import is_litter, is_litter_folder, naming_litter
from doceval_pipeline.documents.patterns import Patterns
from doceval_pipeline.errors import StagingError

ASSIGNED, SKIPPED, REJECTED = "ASSIGNED", "SKIPPED", "REJECTED"

EXCLUDED = "excluded by pattern"
TEMPORARY = "temporary"
HIDDEN = "hidden"
NOT_INCLUDED = "not included by pattern"
EMPTY = "empty"
TOO_LARGE = "too large"
UNREADABLE = "unreadable"
UNREADABLE_FOLDER = "unreadable folder"
SYMLINK = "symlink"
NOT_REGULAR = "not a regular file"
NOT_UTF8 = "name not UTF-8"
VANISHED = "vanished"
# Of folders that are listed because they are not entered.
REASONS_OF_FOLDERS = (*REASONS, UNREADABLE_FOLDER)

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO without a writer would hang. O_NOCTTY: a terminal must not become ours.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# Folders on the way down that are held open; those above are closed and opened again on the way up.
MOST_OPEN_FOLDERS = 64
# A file system may know times that 64 bits cannot hold in nanoseconds, such as the year 2446 of ext4.
LATEST_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was found; `path` below the folder as on disk, `size` in bytes if known.

    `modified_ns` is the time of the last write to a file, in nanoseconds since 1970; at most 64 bits.
    """

    path: bytes
    state: str
    reason: str | None
    size: int | None
    modified_ns: int | None = None


@dataclass(frozen=True)
class Rules:
    """Which files are wanted: patterns as in .gitignore, the largest size in bytes, and folders to bar."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_bytes: int = 50 * 1024 * 1024
    barred: Barred = field(default_factory=Barred)


@dataclass
class _Level:
    """A folder on the way down. `descriptor` is None while it is closed for a time."""

    path: bytes
    descriptor: int | None
    identity: Identity
    hidden: bool
    litter: bool
    utf8: bool
    names: Iterator[bytes] = field(default_factory=lambda: iter(()))


def is_below(path: bytes) -> bool:
    """Whether a path leads to something below the folder that it begins at, step by step."""
    return b"\0" not in path and not {b"", b".", b".."}.intersection(path.split(b"/"))


def display_name(path: bytes) -> str:
    r"""A path as text for people and databases: UTF-8, with other bytes written `\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def walk(folder: Path, rules: Rules, is_over: Callable[[], bool] = lambda: False) -> Iterator[Entry]:
    """List every entry below `folder` that is not a folder, and every folder that cannot be entered.

    Sorted by the bytes of the names, one level after the other. Memory holds the names of the
    folders on the way down, and no more.

    Parameters
    ----------
    is_over
        Asked before each name; the walk ends there once it is true.

    Raises
    ------
    StagingError
        The folder itself is missing, is no folder, or cannot be read.
    """
    return _Walk(rules).run(folder, is_over)


class _Walk:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._include = Patterns(rules.include) if rules.include else None
        self._exclude = Patterns(rules.exclude)
        self._wanted_litter = Patterns(naming_litter(rules.include))
        self._levels: list[_Level] = []

    def run(self, folder: Path, is_over: Callable[[], bool]) -> Iterator[Entry]:
        self._levels.append(_open_top(folder))
        try:
            while self._levels and not is_over():
                level = self._levels[-1]
                name = next(level.names, None)
                if name is None:
                    self._leave()
                elif (entry := self._visit(level, name)) is not None:
                    yield entry
        finally:
            for level in self._levels:
                _close(level)

    def _visit(self, level: _Level, name: bytes) -> Entry | None:
        """Look at one name: an entry to list, or None where a folder was entered."""
        path = level.path + name
        try:
            found = os.stat(name, dir_fd=self._descriptor(level), follow_symlinks=False)
        except FileNotFoundError:
            return Entry(path, REJECTED, VANISHED, None)
        except OSError:
            return Entry(path, REJECTED, UNREADABLE, None)
        if stat.S_ISDIR(found.st_mode):
            return self._enter(level, name)
        utf8 = level.utf8 and _is_utf8(name)
        hidden = level.hidden or name.startswith(b".")
        state, reason = self._judge(level, name, found, utf8, hidden)
        if not stat.S_ISREG(found.st_mode):
            return Entry(path, state, reason, None)
        modified_ns = max(-LATEST_NS, min(found.st_mtime_ns, LATEST_NS))
        return Entry(path, state, reason, found.st_size, modified_ns)

    def _judge(
        self, level: _Level, name: bytes, found: os.stat_result, utf8: bool, hidden: bool
    ) -> tuple[str, str | None]:
        if stat.S_ISLNK(found.st_mode):
            return SKIPPED, SYMLINK
        if not stat.S_ISREG(found.st_mode):
            return SKIPPED, NOT_REGULAR
        if not utf8:
            return REJECTED, NOT_UTF8
        path = (level.path + name).decode()
        if (reason := self._unwanted(path, level.litter or is_litter(name.decode()), hidden)) is not None:
            return SKIPPED, reason
        if found.st_size == 0:
            return SKIPPED, EMPTY
        if found.st_size > self._rules.max_bytes:
            return REJECTED, TOO_LARGE
        return self._try_to_open(level, name)

    def _unwanted(self, path: str, litter: bool, hidden: bool) -> str | None:
        """The first reason that applies; a person's words come before what a name looks like."""
        if self._exclude.match(path):
            return EXCLUDED
        if litter and not self._wanted_litter.match(path):
            return TEMPORARY
        if hidden:
            return HIDDEN
        if self._include is not None and not self._include.match(path):
            return NOT_INCLUDED
        return None

    def _try_to_open(self, level: _Level, name: bytes) -> tuple[str, str | None]:
        try:
            os.close(os.open(name, OPEN_FILE, dir_fd=self._descriptor(level)))
        except FileNotFoundError:
            return REJECTED, VANISHED
        except OSError:
            return REJECTED, UNREADABLE
        return ASSIGNED, None

    def _enter(self, level: _Level, name: bytes) -> Entry | None:
        path = level.path + name
        utf8 = _is_utf8(name)
        litter = level.litter or (utf8 and is_litter_folder(name.decode()))
        # Nobody misses what is in an unreadable lost+found.
        unreadable = (SKIPPED, TEMPORARY) if litter else (REJECTED, UNREADABLE_FOLDER)
        try:
            descriptor = os.open(name, OPEN_FOLDER, dir_fd=self._descriptor(level))
        except OSError:
            # Unreadable, or swapped for a link since it was looked at.
            return Entry(path, *unreadable, None)
        identity = _identity(descriptor)
        if (reason := self._rules.barred.reason(identity)) is not None:
            os.close(descriptor)
            return Entry(path, SKIPPED, reason, None)
        hidden = level.hidden or name.startswith(b".")
        below = _Level(path + b"/", descriptor, identity, hidden, litter, level.utf8 and utf8)
        try:
            below.names = _names(descriptor)
        except OSError:
            os.close(descriptor)
            return Entry(path, *unreadable, None)
        self._levels.append(below)
        if len(self._levels) > MOST_OPEN_FOLDERS:
            _close(self._levels[-MOST_OPEN_FOLDERS - 1])
        return None

    def _leave(self) -> None:
        left = self._levels.pop()
        above = self._levels[-1] if self._levels else None
        if above is not None and above.descriptor is None:
            self._open_again(above, left)
        _close(left)

    def _open_again(self, above: _Level, below: _Level) -> None:
        """Find the way back up; if the tree was moved meanwhile, what is left there has vanished."""
        try:
            descriptor = os.open("..", OPEN_FOLDER, dir_fd=self._descriptor(below))
        except OSError:
            return
        if _identity(descriptor) == above.identity:
            above.descriptor = descriptor
        else:
            os.close(descriptor)

    def _descriptor(self, level: _Level) -> int:
        if level.descriptor is None:
            raise FileNotFoundError(level.path)
        return level.descriptor


def _open_top(folder: Path) -> _Level:
    try:
        # Links on the way to the folder are the choice of whoever named it.
        descriptor = os.open(folder, OPEN_FOLDER & ~os.O_NOFOLLOW)
        return _Level(b"", descriptor, _identity(descriptor), False, False, True, _names(descriptor))
    except FileNotFoundError:
        problem = "does not exist: create it or fix the path"
    except NotADirectoryError:
        problem = "is not a folder: name the folder that holds the documents"
    except PermissionError:
        problem = "cannot be read: give the user that runs doceval read and execute permission"
    except OSError as error:
        problem = f"cannot be read ({error.strerror}): check its file system"
    raise StagingError(f"folder {display_name(os.fsencode(folder))} {problem}")


def _names(descriptor: int) -> Iterator[bytes]:
    return iter(sorted(os.fsencode(name) for name in os.listdir(descriptor)))


def _identity(descriptor: int) -> Identity:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _close(level: _Level) -> None:
    if level.descriptor is not None:
        os.close(level.descriptor)
        level.descriptor = None
