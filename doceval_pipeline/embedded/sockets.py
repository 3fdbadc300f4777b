"""Chooses the folder of a server's socket, and verifies that no other account listens there.

The folder is beside the data if its path is usable, otherwise below a runtime folder of this user or a shared
temporary folder. Another account that creates a shared folder first would receive the documents, so every
connection checks the owner and mode of the folder and the account behind the socket.
"""

import hashlib
import os
import re
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from doceval_pipeline.errors import EmbeddedServerError

SOCKET = ".s.PGSQL.5432"
# The limit of a socket's address is 104 bytes on macOS and 108 on Linux.
LONGEST_SOCKET_PATH = 100
# Longest path of a folder for sockets with random names, as Dagster's code server creates them.
LONGEST_FOLDER = 70
# libpq ends a host at a comma, psycopg2 encodes paths in UTF-8 whatever the file system uses, and shells
# interpret other characters.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+@%&'()=:~# -]*")
# <sys/un.h> of macOS; the result is a struct xucred: version, user id, groups.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76


def near(home: Path) -> Path:
    """The preferred folder, beside the data."""
    return home / "run"


def name_elsewhere(home: Path) -> str:
    """The name of a folder that is not beside the data; distinguishes homes."""
    return f"doceval-{hashlib.sha256(os.fsencode(home / 'postgres')).hexdigest()[:16]}"


def choose_folder(home: Path, *, other_account: bool = False) -> Path:
    """The folder for the socket of a new server; does not create it.

    Parameters
    ----------
    other_account
        Whether the server runs as another account, which cannot enter this user's runtime folder.

    Raises
    ------
    EmbeddedServerError
        No folder has a usable path.
    """
    name = name_elsewhere(home)
    for folder in (near(home), *(base / name for base in runtime_folders(other_account=other_account))):
        if len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(folder)):
            return folder
    raise EmbeddedServerError(
        f"no folder for the socket of {home} has a short path without special characters: "
        "set XDG_RUNTIME_DIR, TMPDIR or DOCEVAL_HOME to your own folder with such a path"
    )


def runtime_folders(*, other_account: bool = False) -> Iterator[Path]:
    """Folders for short-lived files such as sockets, best first: this user's own, then shared ones."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if not other_account and _is_private(own):
        yield Path(own)
    yield from temporary_folders()


def temporary_folders() -> Iterator[Path]:
    """Shared folders for short-lived files; unlike a user's runtime folder, they outlive a logout."""
    for folder in (_temporary_folder(), "/tmp"):  # noqa: S108 - folders below are checked before their use
        if folder and os.path.isdir(folder):
            yield Path(folder)


def short_temporary_folder() -> str | None:
    """A shared folder with a path short enough for sockets of any program; None without one."""
    short = (str(folder) for folder in temporary_folders() if len(os.fsencode(folder)) <= LONGEST_FOLDER)
    return next(short, None)


def _temporary_folder() -> str:
    try:
        return os.path.abspath(tempfile.gettempdir())
    except OSError:  # none is writable
        return ""


def _is_private(folder: str) -> bool:
    """Whether only this user can access a folder, as the XDG base directory specification requires."""
    if not os.path.isabs(folder):
        return False
    try:
        status = os.lstat(folder)
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def require_private(folder: Path, accounts: Collection[int]) -> bool:
    """Check the folder of a socket; False if it does not exist.

    Raises
    ------
    EmbeddedServerError
        It is not a folder, belongs to none of the accounts, or other users can enter it.
    """
    try:
        status = folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise EmbeddedServerError(
            f"{folder}, for the embedded PostgreSQL's socket, cannot be reached ({error.strerror}): "
            "run doceval as the owner of the folder, or set DOCEVAL_HOME to your own folder"
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        reason = "is not a folder: remove it"
    elif status.st_uid not in accounts:
        reason = f"belongs to user id {status.st_uid}: run doceval as that user, or have the folder removed"
    elif status.st_mode & 0o077:
        reason = f"can be entered by other users (mode {stat.S_IMODE(status.st_mode):04o}): remove it"
    else:
        return True
    raise EmbeddedServerError(f"{folder}, for the embedded PostgreSQL's socket, {reason}; nothing was sent")


def require_listener(folder: Path, accounts: Collection[int]) -> bool:
    """Check the account that listens in a private folder, without sending anything; False without one.

    Raises
    ------
    EmbeddedServerError
        Also as `require_private`.
    """
    if not require_private(folder, accounts):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        # Without a timeout it would wait indefinitely while the queue of connections is full.
        probe.settimeout(5)
        try:
            probe.connect(os.fsencode(folder / SOCKET))
        except OSError:
            return False
        require_peer(probe, folder, accounts)
    return True


def require_peer(connection: socket.socket, folder: Path, accounts: Collection[int]) -> None:
    """Check the account behind a connection to a socket.

    Raises
    ------
    EmbeddedServerError
        It is not one of the accounts.
    """
    account = peer(connection)
    if account not in accounts:
        raise EmbeddedServerError(
            f"user id {account} listens on {folder / SOCKET} in place of the embedded PostgreSQL: "
            "end that process; nothing was sent"
        )


def peer(connection: socket.socket) -> int:
    """The id of the user who listens at the other end of a local socket connection."""
    if sys.platform == "darwin":
        credentials = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(struct.unpack_from("2I", credentials)[1])
    return int(struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
