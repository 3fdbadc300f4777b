"""Paths as people write them, resolved as the kernel resolves them: `~`, then links, then `..`.

Opens no file; only links are read.
"""

import os
from pathlib import Path

from doceval_pipeline.errors import PathError


def expanded(path: str) -> str:
    """The path with a leading `~` or `~user` replaced by that home folder.

    Raises
    ------
    PathError
        No such user, or no home folder is known; a folder whose name begins with `~` is written `./~x`.
    """
    if "\0" in path:
        raise PathError("the path contains a NUL character, which no path can: correct it")
    if not path.startswith("~"):
        return path
    found = os.path.expanduser(path)
    user = path.partition("/")[0]
    if found.startswith("~"):
        raise PathError(
            f"{path!r}: no home folder is known for {user!r}: write the full path, or ./{user} for a folder "
            "of that name"
        )
    # An empty HOME would turn ~/documents into /documents.
    if user == "~" and "HOME" in os.environ and not os.path.isabs(os.environ["HOME"]):
        raise PathError(f"{path!r}: HOME is not an absolute path: set HOME, or write the full path")
    return found


def real_path(path: str, base: str = "") -> Path:
    """The one absolute path of a file or folder: without `~`, links, `..` and repeated slashes.

    Parameters
    ----------
    path
        It need not exist.
    base
        The folder that a relative path counts from; the current folder if empty.

    Raises
    ------
    PathError
        As `expanded`, or the current folder was deleted.
    """
    try:
        return Path(os.path.realpath(os.path.join(base, expanded(path))))
    except FileNotFoundError:
        raise PathError(
            f"{path!r} is relative, and the current folder no longer exists: change to another folder"
        ) from None


def file_path(path: str) -> Path:
    """The path of a file that a command reads or writes; shells leave `~` after `--output=`.

    Raises
    ------
    PathError
        As `expanded`, or the path is written as that of a folder, which pathlib forgets.
    """
    found = expanded(path)
    if found.endswith(("/", "/.", "/..")):
        raise PathError(f"{path!r} names a folder: name a file in it")
    return Path(found)
