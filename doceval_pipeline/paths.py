"""Resolves the paths that users write: `~` first, then links and `..` as the kernel does.

Reads links, but opens no file.
"""

import os
from pathlib import Path

from doceval_pipeline.errors import PathError


def expanded(path: str) -> str:
    """The path with a leading `~` or `~user` replaced by that home folder.

    Raises
    ------
    PathError
        The user or the home folder is unknown. A folder whose name begins with `~` is written `./~x`.
    """
    if "\0" in path:
        raise PathError("the path contains a NUL character: remove it")
    if not path.startswith("~"):
        return path
    expansion = os.path.expanduser(path)
    user = path.partition("/")[0]
    if expansion.startswith("~"):
        raise PathError(
            f"{path!r}: no home folder is known for {user!r}: write the full path, or ./{user} for a folder "
            "of that name"
        )
    # An empty HOME would turn ~/documents into /documents.
    if user == "~" and "HOME" in os.environ and not os.path.isabs(os.environ["HOME"]):
        raise PathError(f"{path!r}: HOME is not an absolute path: set HOME, or write the full path")
    return expansion


def real_path(path: str, base: str = "") -> Path:
    """The canonical absolute path of a file or folder: without `~`, links, `..` and repeated slashes.

    Parameters
    ----------
    path
        It need not exist.
    base
        The folder that a relative path starts from; the current folder if empty.

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
    """The path of a file that a command reads or writes; shells do not expand `~` after `--output=`.

    Raises
    ------
    PathError
        As `expanded`, or the path ends like that of a folder, which pathlib would not notice.
    """
    expansion = expanded(path)
    if expansion.endswith(("/", "/.", "/..")):
        raise PathError(f"{path!r} is the path of a folder: give the path of a file")
    return Path(expansion)
