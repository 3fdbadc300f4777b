"""Temporary files of systems and programs are recognised by name, and people's files are not among them."""

import os
import tempfile
import unicodedata
from pathlib import Path

import pytest

from doceval_pipeline.documents.walk import Rules, walk
from doceval_pipeline_tests.unprivileged import unprivileged

LITTER = [
    "~$contract.docx",
    "~$Vertrag – Prüfung.xlsx",
    ".~lock.contract.odt#",
    ".~contract.docx",
    "~contract~x1y2z3.idlk",
    "accounts.LACCDB",
    "plan.dwl2",
    "Thumbs.db",
    "THUMBS.DB",
    "ehthumbs.db",
    "Desktop.ini",
    ".DS_Store",
    "Icon\r",
    "._contract.pdf",
    ".apdisk",
    ".directory",
    "contract.txt~",
    "#contract.txt#",
    ".contract.txt.swp",
    "~WRL0001.tmp",
    "notes.TMP",
    "report.docx.temp",
    "contract.pdf.crdownload",
    "contract.pdf.part",
    "contract.pdf.partial",
    ".nfs000000000a1b2c3d00000001",
    ".fuse_hidden0000001200000003",
    ".goutputstream-AB12CD",
    "__MACOSX/contract.pdf",
    "__MACOSX/sub/plain.txt",
    "$RECYCLE.BIN/S-1-5-21/$R1A2B3.pdf",
    "$Recycle.Bin/x.pdf",
    "System Volume Information/IndexerVolumeGuid",
    "lost+found/x.pdf",
    "@eaDir/contract.pdf",
    "#recycle/contract.pdf",
    ".Trash-1000/files/contract.pdf",
    ".Trashes/501/contract.pdf",
    ".Spotlight-V100/store.db",
    ".fseventsd/0001",
    ".AppleDouble/contract.pdf",
    "contract.pdf.download/contract.pdf",
]
DOCUMENTS = [
    "contract.bak",
    "contract.old",
    "contract.lnk",
    "chapter.part",
    "archive.part1.rar",
    "tmp",
    "tmp/contract.pdf",
    "temp.pdf",
    "~contract.pdf",
    "$contract.pdf",
    "#1 contract.pdf",
    "1# contract #2.pdf",
    "thumbs.db.txt",
    "my desktop.ini.txt",
    "MACOSX/contract.pdf",
    "Icon",
    "icon.png",
    "lost and found.pdf",
    "System Volume Information.pdf",
    "CONTRA~1.DOC",
    "part",
    "download/contract.pdf",
    "Straße~1.txt",
]


def write(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("x")


def found(folder: Path, *include: str, exclude: tuple[str, ...] = ()) -> dict[str, str | None]:
    return {
        os.fsdecode(entry.path): entry.reason or entry.state
        for entry in walk(folder, Rules(include=include, exclude=exclude))
    }


@pytest.mark.parametrize("name", LITTER)
def test_what_a_program_leaves_behind_is_listed_as_temporary(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert found(tmp_path) == {name: "temporary"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_name_that_a_person_may_give_is_a_document(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert found(tmp_path) == {name: "ASSIGNED"}


def test_temporary_files_are_known_in_either_unicode_form(tmp_path: Path) -> None:
    names = {unicodedata.normalize(form, "~$Prüfung.docx") for form in ("NFC", "NFD")}
    for name in names:
        write(tmp_path, name)
    assert found(tmp_path) == dict.fromkeys(names, "temporary")


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("*.tmp", {"notes.tmp"}),
        ("notes.tmp", {"notes.tmp"}),
        ("Thumbs.db", {"Thumbs.db"}),
        ("~$*", {"~$a.docx"}),
        ("__MACOSX/", {"__MACOSX/b.docx"}),
        ("*", {"a.docx"}),
        ("*.docx", {"a.docx"}),
        ("**/*.docx", {"a.docx"}),
    ],
)
def test_only_include_patterns_that_name_temporary_files_include_them(
    tmp_path: Path, pattern: str, taken: set[str]
) -> None:
    for name in ("notes.tmp", "Thumbs.db", "a.docx", "~$a.docx", "__MACOSX/b.docx"):
        write(tmp_path, name)
    assert {name for name, what in found(tmp_path, pattern).items() if what == "ASSIGNED"} == taken


def test_patterns_of_the_user_come_before_reasons_from_the_name(tmp_path: Path) -> None:
    for name in ("notes.tmp", ".DS_Store", ".hidden.txt"):
        write(tmp_path, name)
    assert found(tmp_path, exclude=("*.tmp", ".hidden*")) == {
        "notes.tmp": "excluded by pattern",
        ".DS_Store": "temporary",
        ".hidden.txt": "excluded by pattern",
    }


def test_an_unreadable_temporary_folder_is_skipped_and_not_rejected() -> None:
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        folder.chmod(0o755)
        for name in ("lost+found", "others"):
            (folder / name).mkdir(mode=0)
        seen = unprivileged(lambda: [[e.path.decode(), e.state, e.reason] for e in walk(folder, Rules())])
    assert seen == [
        ["lost+found", "SKIPPED", "temporary"],
        ["others", "REJECTED", "unreadable folder"],
    ]
