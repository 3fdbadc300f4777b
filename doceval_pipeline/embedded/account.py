"""Chooses the account that the server runs as. PostgreSQL refuses to run as root, which containers often use.

A normal user runs it as itself. root runs it in a user namespace with another user id and without rights, or
as the account `nobody` if namespaces are not allowed. No account is created and no permission of a parent
folder is changed: if the account cannot reach the server's programs or data, an error says so.
"""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from doceval_pipeline.errors import EmbeddedServerError

LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True)
class ServerAccount:
    """Owner of the server's files, and the command prefix that starts its programs."""

    uid: int
    gid: int
    command_prefix: list[str] = field(default_factory=list)

    def own(self, path: Path) -> None:
        """Make the account the owner of a file or folder."""
        if path.lstat().st_uid != self.uid:
            os.chown(path, self.uid, self.gid)


def choose_account(home: Path, owner: int | None, program: Path) -> ServerAccount:
    """Choose the account for a server below `home`.

    Parameters
    ----------
    owner
        Owner of the data folder; None if it does not exist yet.
    program
        One of the server's programs.

    Raises
    ------
    EmbeddedServerError
        The data belong to another user, or no account can reach them.
    """
    own = os.geteuid()
    if own != 0:
        if owner not in (None, own):
            raise EmbeddedServerError(
                f"the data in {home} belong to user id {owner}: "
                "run doceval as that user, or set DOCEVAL_HOME to your own folder"
            )
        return ServerAccount(own, os.getegid())
    nobody = _nobody()
    if owner != nobody.pw_uid and _namespaces_work():
        account = ServerAccount(0, 0, _launch("namespace"))
    else:
        account = ServerAccount(nobody.pw_uid, nobody.pw_gid, _launch("nobody"))
    _require_reach(account, home, program)
    return account


def trusted_accounts(owner: int | None) -> set[int]:
    """The accounts that a server of this user may run as; `owner` is the owner of its data.

    Another owner is not trusted, because another user may have created the folder.
    """
    own = os.geteuid()
    return {own, owner} if own == 0 and owner == _nobody().pw_uid else {own}


def initdb_prefix(account: ServerAccount) -> list[str]:
    """The command prefix for initdb, which needs a passwd entry for its user.

    Raises
    ------
    EmbeddedServerError
        The user has no entry, and user namespaces are not allowed.
    """
    try:
        pwd.getpwuid(account.uid)
    except KeyError:
        if not _namespaces_work():
            raise EmbeddedServerError(
                f"user id {account.uid} has no entry in /etc/passwd, which PostgreSQL's initdb needs: "
                "add one, run doceval as another user, or set the three URL variables to your own servers"
            ) from None
        return _launch("namespace")
    return account.command_prefix


def _require_reach(account: ServerAccount, home: Path, program: Path) -> None:
    for path, remedy in (
        (
            program,
            "move this project to an accessible folder such as /opt, run make setup there with umask 022,",
        ),
        (home, "set DOCEVAL_HOME to an accessible folder,"),
    ):
        if closed := first_closed(path, account.uid, account.gid):
            raise EmbeddedServerError(
                f"PostgreSQL does not run as root, and other users cannot enter {closed}: "
                f"{remedy} or run doceval as a normal user"
            )


def first_closed(path: Path, uid: int, gid: int) -> Path | None:
    """The first parent of a path, or the path itself, that a normal user cannot enter or execute.

    Checks permission bits, not access control lists.
    """
    for full_path in (path.absolute(), path.resolve()):
        for step in (*reversed(full_path.parents), full_path):
            status = step.stat()
            bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
            if not status.st_mode & bit:
                return step
    return None


def _namespaces_work() -> bool:
    return (
        subprocess.run([*_launch("namespace"), "/bin/true"], capture_output=True, check=False).returncode == 0
    )


def _launch(mode: str) -> list[str]:
    return [sys.executable, "-I", str(LAUNCHER), mode]


def _nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")
