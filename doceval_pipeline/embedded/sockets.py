"""Where a server's socket lies, and whether nobody else listens there.

The folder is near the data if programs can name it, else below a folder for sockets of this user or of
everybody. Another account that makes a folder of everybody's first would be sent the documents. So each
connection looks at the owner and the mode of the folder, and at the account behind the socket.
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
# Of a folder in which Dagster's code server and the process that starts runs make one with a random name.
LONGEST_FOLDER = 70
# libpq takes a comma for the end of a host, psycopg2 writes a path in UTF-8 whatever the file system uses,
# and a shell takes the rest for something else.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+@%&'()=:~# -]*")
# <sys/un.h> of macOS; the answer is a struct xucred: its version, then the user's number, then groups.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76


def near(home: Path) -> Path:
    """The folder that is preferred: beside the data."""
    return home / "run"


def name_elsewhere(home: Path) -> str:
    """What the folder is called where it is not near the data; tells homes apart."""
    return f"doceval-{hashlib.sha256(os.fsencode(home / 'postgres')).hexdigest()[:16]}"


def choose_folder(home: Path, other_account: bool = False) -> Path:
    """The folder for the socket of a server that is to be started; nothing is made.

    Parameters
    ----------
    other_account
        Whether the server runs under another account, which cannot enter this user's runtime folder.

    Raises
    ------
    EmbeddedServerError
        No folder has a path that programs can name.
    """
    name = name_elsewhere(home)
    for folder in (near(home), *(base / name for base in runtime_folders(other_account))):
        if len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(folder)):
            return folder
    raise EmbeddedServerError(
        f"no folder for the socket of {home} has a short path without special characters: "
        "set XDG_RUNTIME_DIR or TMPDIR to such a folder of yours, or DOCEVAL_HOME"
    )


def runtime_folders(other_account: bool = False) -> Iterator[Path]:
    """Folders for short-lived files such as sockets, the best first: this user's own, then everybody's."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if not other_account and _is_private(own):
        yield Path(own)
    yield from temporary_folders()


def temporary_folders() -> Iterator[Path]:
    """Folders of everybody's for short-lived files; unlike a user's own, they outlive a logout."""
    for folder in (_temporary_folder(), "/tmp"):  # noqa: S108 - what lies below is looked at before its use
        if folder and os.path.isdir(folder):
            yield Path(folder)


def short_temporary_folder() -> str | None:
    """A folder of everybody's in which sockets of any program fit; None where there is none."""
    short = (str(folder) for folder in temporary_folders() if len(os.fsencode(folder)) <= LONGEST_FOLDER)
    return next(short, None)


def _temporary_folder() -> str:
    try:
        return os.path.abspath(tempfile.gettempdir())
    except OSError:  # none can be written
        return ""


def _is_private(folder: str) -> bool:
    """Whether a folder is this user's alone, as the XDG base directory specification asks."""
    if not os.path.isabs(folder):
        return False
    try:
        found = os.lstat(folder)
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def require_private(folder: Path, accounts: Collection[int]) -> bool:
    """Look at the folder of a socket; False where there is none.

    Raises
    ------
    EmbeddedServerError
        It is a link or no folder, belongs to none of the accounts, or others can enter it.
    """
    try:
        found = folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise EmbeddedServerError(
            f"{folder}, for the embedded PostgreSQL's socket, cannot be reached ({error.strerror}): "
            "run doceval as the user whose folder it is, or set DOCEVAL_HOME to a folder of yours"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        reason = "is not a folder: remove it"
    elif found.st_uid not in accounts:
        reason = f"belongs to user number {found.st_uid}: run doceval as that user, or have it removed"
    elif found.st_mode & 0o077:
        reason = f"can be entered by others (mode {stat.S_IMODE(found.st_mode):04o}): remove it"
    else:
        return True
    raise EmbeddedServerError(f"{folder}, for the embedded PostgreSQL's socket, {reason}; nothing was sent")


def require_listener(folder: Path, accounts: Collection[int]) -> bool:
    """Look at who listens in a private folder, and say nothing to it; False where nobody listens.

    Raises
    ------
    EmbeddedServerError
        Also as `require_private`.
    """
    if not require_private(folder, accounts):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        # Without a limit it would wait for ever where the list of waiting connections is full.
        probe.settimeout(5)
        try:
            probe.connect(os.fsencode(folder / SOCKET))
        except OSError:
            return False
        require_peer(probe, folder, accounts)
    return True


def require_peer(connection: socket.socket, folder: Path, accounts: Collection[int]) -> None:
    """Look at the account behind a connection to a socket.

    Raises
    ------
    EmbeddedServerError
        It is none of the accounts.
    """
    account = peer(connection)
    if account not in accounts:
        raise EmbeddedServerError(
            f"user number {account} listens on {folder / SOCKET} in place of the embedded PostgreSQL: "
            "end that process; nothing was sent"
        )


def peer(connection: socket.socket) -> int:
    """The number of the user who listens at the other end of a connection to a socket of this machine."""
    if sys.platform == "darwin":
        answer = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(struct.unpack_from("2I", answer)[1])
    return int(struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
