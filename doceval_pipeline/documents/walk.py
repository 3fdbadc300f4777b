"""Lists every entry of an untrusted folder, with the reason for each entry that cannot be used.

The walk follows no links, never leaves the folder and reads no contents: an entry is classified by `stat`
and an `open` that cannot block. Unlike `os.walk` it works on trees of any depth and omits nothing silently.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from doceval_pipeline.documents.patterns import Patterns
from doceval_pipeline.documents.skipped_folders import REASONS, Identity, SkippedFolders
from doceval_pipeline.documents.temporary_files import (
    is_temporary_file,
    is_temporary_folder,
    temporary_patterns,
)
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
# Only on object storage.
FOLDER_MARKER = "folder marker"
UNREADABLE_NAME = "unreadable name"
# The reasons for which a folder is listed instead of entered.
REASONS_OF_FOLDERS = (*REASONS, UNREADABLE_FOLDER)

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO without a writer would block. O_NOCTTY: a terminal must not become this process's
# controlling terminal.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# How many folders of the current path stay open; those above are closed, and reopened on the way up.
MOST_OPEN_FOLDERS = 64
# File systems store times that do not fit into 64 bits of nanoseconds, such as the year 2446 on ext4.
LATEST_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a walk; `path` relative to the folder as on disk, `size` in bytes if known.

    `modified_ns` is the time of the last write to a file, in nanoseconds since 1970; at most 64 bits. `etag`
    identifies the version of an object on object storage.
    """

    path: bytes
    state: str
    reason: str | None
    size: int | None
    modified_ns: int | None = None
    etag: str | None = None


@dataclass(frozen=True)
class Rules:
    """The files to use: patterns as in .gitignore, the largest size in bytes, and folders to skip."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_bytes: int = 50 * 1024 * 1024
    skipped_folders: SkippedFolders = field(default_factory=SkippedFolders)


class NameRules:
    """Decides from its name whether a file is skipped."""

    def __init__(self, rules: Rules) -> None:
        self._include = Patterns(rules.include) if rules.include else None
        self._exclude = Patterns(rules.exclude)
        self._wanted_temporary = Patterns(temporary_patterns(rules.include))

    def reason_to_skip(self, path: str, name: str, *, is_hidden: bool, is_temporary: bool) -> str | None:
        """The first reason that applies; the user's patterns come before what the name suggests.

        Parameters
        ----------
        path, name
            The path below the folder, and its last part.
        is_hidden, is_temporary
            Whether a folder above the file is.
        """
        if self._exclude.match(path):
            return EXCLUDED
        is_temporary = is_temporary or is_temporary_file(name)
        if is_temporary and not self._wanted_temporary.match(path):
            return TEMPORARY
        if is_hidden or name.startswith("."):
            return HIDDEN
        if self._include is not None and not self._include.match(path):
            return NOT_INCLUDED
        return None


@dataclass
class _Level:
    """A folder of the current path. `descriptor` is None while the folder is closed."""

    path: bytes
    descriptor: int | None
    identity: Identity
    is_hidden: bool
    is_temporary: bool
    is_utf8: bool
    names: Iterator[bytes] = field(default_factory=lambda: iter(()))


def is_below(path: bytes) -> bool:
    """Whether a relative path stays below its folder at every step."""
    return b"\0" not in path and not {b"", b".", b".."}.intersection(path.split(b"/"))


def display_name(path: bytes) -> str:
    r"""A path as text for people and databases: UTF-8, with NUL and other bytes written `\xNN`."""
    return path.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def walk(folder: Path, rules: Rules, is_over: Callable[[], bool] = lambda: False) -> Iterator[Entry]:
    """List every entry below `folder` that is not a folder, and every folder that is not entered.

    Depth first, each folder sorted by the bytes of the names. Memory holds only the names of the folders of
    the current path.

    Parameters
    ----------
    is_over
        Called before each name; the walk ends when it returns True.

    Raises
    ------
    StagingError
        The folder itself is missing, is not a folder, or cannot be read.
    """
    return _Walk(rules).run(folder, is_over)


def require_files(folder: Path) -> None:
    """Check that a folder whose files have vanished still holds something.

    Raises
    ------
    StagingError
        It was moved or unmounted: its files are not gone, and must not be left out one by one.
    """
    try:
        with os.scandir(folder) as entries:
            if next(entries, None) is not None:
                return
        problem = "is empty now"
    except OSError as error:
        problem = f"cannot be opened any more ({error.strerror})"
    raise StagingError(
        f"folder {display_name(os.fsencode(folder))} {problem}, although files in it were assigned: move or "
        "mount it back, then stage the batch again"
    )


class _Walk:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._name_rules = NameRules(rules)
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
        """The entry of a name, or None if it is a folder that was entered."""
        path = level.path + name
        try:
            status = os.stat(name, dir_fd=self._descriptor(level), follow_symlinks=False)
        except FileNotFoundError:
            return Entry(path, REJECTED, VANISHED, None)
        except OSError:
            return Entry(path, REJECTED, UNREADABLE, None)
        if stat.S_ISDIR(status.st_mode):
            return self._enter(level, name)
        state, reason = self._classify(level, name, status)
        if not stat.S_ISREG(status.st_mode):
            return Entry(path, state, reason, None)
        modified_ns = max(-LATEST_NS, min(status.st_mtime_ns, LATEST_NS))
        return Entry(path, state, reason, status.st_size, modified_ns)

    def _classify(self, level: _Level, name: bytes, status: os.stat_result) -> tuple[str, str | None]:
        """The state of an entry that is not a folder, and the reason unless it is assigned."""
        if stat.S_ISLNK(status.st_mode):
            return SKIPPED, SYMLINK
        if not stat.S_ISREG(status.st_mode):
            return SKIPPED, NOT_REGULAR
        if not (level.is_utf8 and _is_utf8(name)):
            return REJECTED, NOT_UTF8
        reason = self._name_rules.reason_to_skip(
            (level.path + name).decode(),
            name.decode(),
            is_hidden=level.is_hidden,
            is_temporary=level.is_temporary,
        )
        if reason is not None:
            return SKIPPED, reason
        if status.st_size == 0:
            return SKIPPED, EMPTY
        if status.st_size > self._rules.max_bytes:
            return REJECTED, TOO_LARGE
        return self._try_to_open(level, name)

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
        is_utf8 = _is_utf8(name)
        is_temporary = level.is_temporary or (is_utf8 and is_temporary_folder(name.decode()))
        # An unreadable lost+found needs no attention.
        unreadable = (SKIPPED, TEMPORARY) if is_temporary else (REJECTED, UNREADABLE_FOLDER)
        try:
            descriptor = os.open(name, OPEN_FOLDER, dir_fd=self._descriptor(level))
        except OSError:
            # Unreadable, or replaced by a link since the stat above.
            return Entry(path, *unreadable, None)
        identity = _identity(descriptor)
        if (reason := self._rules.skipped_folders.reason(identity)) is not None:
            os.close(descriptor)
            return Entry(path, SKIPPED, reason, None)
        below = _Level(
            path + b"/",
            descriptor,
            identity,
            is_hidden=level.is_hidden or name.startswith(b"."),
            is_temporary=is_temporary,
            is_utf8=level.is_utf8 and is_utf8,
        )
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
        """Reopen the parent; if the tree was moved meanwhile, its remaining entries count as vanished."""
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
        # Links in the path of the folder itself are the user's choice.
        descriptor = os.open(folder, OPEN_FOLDER & ~os.O_NOFOLLOW)
        return _Level(
            b"",
            descriptor,
            _identity(descriptor),
            is_hidden=False,
            is_temporary=False,
            is_utf8=True,
            names=_names(descriptor),
        )
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
    # Not os.listdir, which holds a second list: 68 MiB less for a million names.
    with os.scandir(descriptor) as entries:
        return iter(sorted(os.fsencode(entry.name) for entry in entries))


def _identity(descriptor: int) -> Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


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
