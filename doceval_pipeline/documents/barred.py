"""Folders that a walk lists with a reason instead of entering them.

A folder is known by its device and number, so that links, mounts and other spellings of its path make no
difference.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

OWN_FILES = "folder of doceval's own files"
SYSTEM_FOLDER = "system folder"
COUNTED_BY_ITSELF = "folder counted by itself"
REASONS = (OWN_FILES, SYSTEM_FOLDER, COUNTED_BY_ITSELF)

Identity = tuple[int, int]

# Of Linux; on other systems, and where they cannot be told, the folders below are known by their names.
_MOUNTS = Path("/proc/self/mountinfo")
_SYSTEM_FOLDERS = ("/dev", "/proc", "/sys")
# File systems that hold no files of anybody, only what the kernel says. Not tmpfs, which people use.
_KERNEL_FILE_SYSTEMS = frozenset(
    (
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "resctrl", "rpc_pipefs"),
        *("securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs"),
    )
)


@dataclass(frozen=True)
class Barred:
    """Folders by identity with the reason of each, and devices whose folders are all the system's."""

    folders: Mapping[Identity, str] = field(default_factory=dict)
    devices: frozenset[int] = frozenset()

    def reason(self, folder: Identity) -> str | None:
        """Why a folder is not entered; None where it is."""
        return self.folders.get(folder) or (SYSTEM_FOLDER if folder[0] in self.devices else None)


def identity_of(folder: str | Path) -> Identity | None:
    """Device and number of a folder, of the one that a link leads to; None where it cannot be reached."""
    try:
        found = os.stat(folder)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def system_folders() -> Barred:
    """The folders of the kernel: `/dev`, `/proc`, `/sys`, and whatever else it shows as a file system."""
    known = (identity_of(folder) for folder in _SYSTEM_FOLDERS)
    return Barred(
        {identity: SYSTEM_FOLDER for identity in known if identity is not None}, frozenset(_kernel_devices())
    )


def _kernel_devices() -> Iterator[int]:
    try:
        mounts = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return
    for mount in mounts:
        # "22 27 0:21 / /proc rw,relatime - proc proc rw": device in the third field, its kind after the dash.
        fields, _, kind = mount.partition(b" - ")
        if kind.split(b" ", 1)[0].decode("ascii", "replace") in _KERNEL_FILE_SYSTEMS:
            major, minor = fields.split(b" ")[2].split(b":")
            yield os.makedev(int(major), int(minor))
