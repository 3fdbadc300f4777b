"""Where Debian's packages put the programs that these tests start."""

import shutil
from pathlib import Path


def program(name: str, package: str) -> Path:
    """The path of a program of a Debian package.

    Raises
    ------
    AssertionError
        It is not installed.
    """
    found = shutil.which(name, path="/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin")
    assert found, f"{name} is not here: apt-get install {package}"
    return Path(found)


def postgresql_programs() -> Path:
    """The folder of the programs of the newest PostgreSQL that Debian's packages installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob("[0-9]*"), key=lambda folder: int(folder.name))
    assert versions, "no PostgreSQL of Debian's is here: apt-get install postgresql"
    return versions[-1] / "bin"
