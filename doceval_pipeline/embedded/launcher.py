"""Script for root: drops root's rights, then executes the given program.

`launcher.py namespace COMMAND…` enters a user namespace in which this user is `nobody`;
`launcher.py nobody COMMAND…` becomes the account `nobody`. This is a script because Python code between fork
and exec may deadlock in a process with threads.
"""

import ctypes
import os
import pwd
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000  # <sched.h>
INSIDE = 65534  # the usual user id of nobody; any id except 0 works


def _enter_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are refused")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE} {gid} 1")


def _become_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


if __name__ == "__main__":
    {"namespace": _enter_namespace, "nobody": _become_nobody}[sys.argv[1]]()
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - no shell is wanted
