"""Run as a script by root: gives up root's rights, then becomes the program it is told to start.

`launcher.py namespace COMMAND…` enters a user namespace in which this user is `nobody`;
`launcher.py nobody COMMAND…` becomes the account `nobody`. A script and not a function between fork
and exec, because Python code there may deadlock in a process with threads.
"""

import ctypes
import os
import pwd
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000  # <sched.h>
INSIDE = 65534  # the customary number of nobody; any number but 0 would do


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
