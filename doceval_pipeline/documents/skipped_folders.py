"""Folders that a walk does not enter: it lists them as skipped, with a reason.

A folder is identified by device and inode, so that links, mounts and other spellings of its path make no
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

# Linux only. Elsewhere, and where it cannot be read, only the folders named below are known.
_MOUNTS = Path("/proc/self/mountinfo")
_SYSTEM_FOLDERS = ("/dev", "/proc", "/sys")
# File systems whose files the kernel generates. tmpfs is not included, because people keep files there.
_KERNEL_FILE_SYSTEMS = frozenset(
    (
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "resctrl", "rpc_pipefs"),
        *("securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs"),
    )
)


@dataclass(frozen=True)
class SkippedFolders:
    """The folders to skip, each with its reason, and the devices whose folders all belong to the system."""

    folders: Mapping[Identity, str] = field(default_factory=dict)
    devices: frozenset[int] = frozenset()

    def reason(self, folder: Identity) -> str | None:
        """Why a folder is skipped; None if it is entered."""
        return self.folders.get(folder) or (SYSTEM_FOLDER if folder[0] in self.devices else None)


def identity_of(folder: str | Path) -> Identity | None:
    """Device and inode of a folder, links followed; None if it cannot be reached."""
    try:
        status = os.stat(folder)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def system_folders() -> SkippedFolders:
    """The kernel's folders: `/dev`, `/proc`, `/sys`, and the mount points of its other file systems."""
    known = (identity_of(folder) for folder in _SYSTEM_FOLDERS)
    return SkippedFolders(
        {identity: SYSTEM_FOLDER for identity in known if identity is not None}, frozenset(_kernel_devices())
    )


def _kernel_devices() -> Iterator[int]:
    try:
        mounts = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return
    for mount in mounts:
        # "22 27 0:21 / /proc rw,relatime - proc proc rw": the third field is the device, the type follows the
        # dash.
        fields, _, kind = mount.partition(b" - ")
        if kind.split(b" ", 1)[0].decode("ascii", "replace") in _KERNEL_FILE_SYSTEMS:
            major, minor = fields.split(b" ")[2].split(b":")
            yield os.makedev(int(major), int(minor))
