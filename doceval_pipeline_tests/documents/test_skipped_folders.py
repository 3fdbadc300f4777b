"""Folders that a walk lists instead of entering are identified by device and inode, not by name."""

import os
import sys
from pathlib import Path

import pytest

from doceval_pipeline.documents import skipped_folders
from doceval_pipeline.documents.skipped_folders import OWN_FILES, SkippedFolders, identity_of, system_folders
from doceval_pipeline.documents.walk import Rules, walk


def test_a_skipped_folder_is_one_entry_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "other").symlink_to("kept")
    identity = identity_of(tmp_path / "other")
    assert identity is not None
    os.rename(tmp_path / "kept", tmp_path / ".renamed")
    rules = Rules(skipped_folders=SkippedFolders({identity: OWN_FILES}))
    assert [(e.path, e.state, e.reason) for e in walk(tmp_path, rules)] == [
        (b".renamed", "SKIPPED", "folder of doceval's own files"),
        (b"other", "SKIPPED", "symlink"),
    ]


def test_all_folders_on_a_skipped_device_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    device = tmp_path.stat().st_dev
    rules = Rules(skipped_folders=SkippedFolders(devices=frozenset([device])))
    assert [(e.path, e.reason) for e in walk(tmp_path, rules)] == [(b"mounted", "system folder")]


@pytest.mark.skipif(sys.platform != "linux", reason="the file systems of Linux")
@pytest.mark.parametrize("folder", ["/dev", "/proc", "/sys", "/proc/self", "/dev/pts", "/sys/fs"])
def test_the_folders_of_the_kernel_are_known(folder: str) -> None:
    identity = identity_of(folder)
    if identity is None:
        pytest.skip(f"this machine has no {folder}")
    assert system_folders().reason(identity) == "system folder"


@pytest.mark.parametrize("folder", ["/", "/tmp", "/usr", "/home", "/dev/shm"])
def test_folders_that_people_use_are_not_the_kernels(folder: str) -> None:
    identity = identity_of(folder)
    assert identity is None or system_folders().reason(identity) is None


def test_without_a_list_of_mounts_the_folders_are_known_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipped_folders, "_MOUNTS", tmp_path / "missing")
    monkeypatch.setattr(skipped_folders, "_SYSTEM_FOLDERS", (str(tmp_path), "/does/not/exist"))
    identity = identity_of(tmp_path)
    assert identity is not None
    assert system_folders() == SkippedFolders({identity: "system folder"}, frozenset())
