"""Under which account the server runs. PostgreSQL refuses to run as root, and users of containers are.

Three cases: a normal user runs it as itself; root runs it as itself inside a user namespace, where
its number is another one and it has no rights; where namespaces are refused, root runs it as the
account `nobody`. No account is made, and no permission of a folder above ours is changed: where the
account cannot reach the server's programs or data, one line says so.
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
    """How to start the server's programs, and who owns their files."""

    uid: int
    gid: int
    command_prefix: list[str] = field(default_factory=list)

    def own(self, path: Path) -> None:
        """Give a file or folder of ours to the account."""
        if path.lstat().st_uid != self.uid:
            os.chown(path, self.uid, self.gid)


def choose_account(home: Path, owner: int | None, program: Path) -> ServerAccount:
    """Choose the account for a server below `home`.

    Parameters
    ----------
    owner
        Who owns the data folder, or None where there is none yet.
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
                f"the data in {home} belong to user number {owner}: "
                "run as that user, or set DOCEVAL_HOME to a folder of yours"
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
    """Under which accounts a server of this user's may run; `owner` is that of its data.

    Not the owner of the data whoever that is: another user may have made the folder.
    """
    own = os.geteuid()
    return {own, owner} if own == 0 and owner == _nobody().pw_uid else {own}


def initdb_prefix(account: ServerAccount) -> list[str]:
    """The command prefix for initdb, which refuses a user without a passwd entry.

    Raises
    ------
    EmbeddedServerError
        The user has none, and cannot have one in a namespace of its own either.
    """
    try:
        pwd.getpwuid(account.uid)
    except KeyError:
        if not _namespaces_work():
            raise EmbeddedServerError(
                f"user number {account.uid} has no entry in /etc/passwd, which PostgreSQL's initdb needs: "
                "add one, run doceval as another user, or set the three URL variables to servers of your own"
            ) from None
        return _launch("namespace")
    return account.command_prefix


def _require_reach(account: ServerAccount, home: Path, program: Path) -> None:
    for path, remedy in (
        (
            program,
            "move this project to a folder that can be, such as /opt, run make setup there with umask 022,",
        ),
        (home, "set DOCEVAL_HOME to a folder that can be,"),
    ):
        if closed := first_closed(path, account.uid, account.gid):
            raise EmbeddedServerError(
                f"PostgreSQL does not run as root, and {closed} cannot be entered by others: "
                f"{remedy} or run doceval as a normal user"
            )


def first_closed(path: Path, uid: int, gid: int) -> Path | None:
    """The first folder on the way to a path, or the path, that an ordinary user cannot enter or execute.

    Looks at permission bits, not at access control lists.
    """
    for whole in (path.absolute(), path.resolve()):
        for step in (*reversed(whole.parents), whole):
            found = step.stat()
            bit = 0o100 if found.st_uid == uid else 0o010 if found.st_gid == gid else 0o001
            if not found.st_mode & bit:
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
