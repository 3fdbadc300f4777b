"""Names of temporary files and folders that systems and programs create beside documents.

Includes only names that nobody gives to a document. Backups that may be the only copy (`.bak`, `.old`),
links to documents (`.lnk`, `.url`) and e-mail caches are therefore not included.
"""

import re
from collections.abc import Iterable

# Compared in lower case, because Windows and macOS ignore case; the few names from Linux mean nothing else in
# capitals.
_FILES = {
    # Windows Explorer
    "thumbs.db",
    "thumbs.db:encryptable",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    # macOS Finder, and its marker files on network drives and memory sticks
    ".ds_store",
    "icon\r",
    ".localized",
    ".apdisk",
    ".volumeicon.icns",
    ".com.apple.timemachine.donotpresent",
    "iconcache.db",
    # KDE
    ".directory",
}
_FOLDERS = {
    # macOS: resource forks in zip files, volumes, network drives
    "__macosx",
    ".appledouble",
    ".appledb",
    ".appledesktop",
    ".spotlight-v100",
    ".fseventsd",
    ".trashes",
    ".trash",
    ".temporaryitems",
    "temporary items",
    "network trash folder",
    ".documentrevisions-v100",
    # Windows
    "$recycle.bin",
    "system volume information",
    # Linux: files that fsck recovered
    "lost+found",
    # Synology, QNAP
    "@eadir",
    "#recycle",
    "@recycle",
    ".@__thumb",
}
_BEGINNINGS = (
    "~$",  # lock files of Microsoft Office
    ".~",  # lock files of LibreOffice (.~lock.x#) and WPS; rsync
    "._",  # resource forks of macOS on other file systems
    # Deleted while open, on FUSE and NFS; unfinished saves of GNOME.
    ".fuse_hidden0",
    ".nfs0",
    ".goutputstream-",
)
_ENDINGS = (
    "~",  # backups of the last save: Emacs, gedit, Kate, Vim
    # Declared temporary by the program that wrote it: ~WRL0001.tmp, contract.docx.tmp
    ".tmp",
    ".temp",
    # Lock files: Access, AutoCAD, InDesign
    ".laccdb",
    ".dwl",
    ".dwl2",
    ".idlk",
    # Unfinished downloads and copies: Chromium, Opera, Edge, WinSCP, aria2, torrents
    ".crdownload",
    ".opdownload",
    ".partial",
    ".filepart",
    ".aria2",
    ".!ut",
    ".!qb",
)
_FORMS = re.compile(
    r"""
      \# .+ \#                           # autosaves of Emacs
    | \. .+ \. (sw[a-p] | kate-swp)      # swap files of Vim and Kate
    | .+ \. [^.]+ \. part                # unfinished downloads of Firefox: contract.pdf.part
    | ~wr[adfl][0-9]{4} \. [a-z]+        # saves of Microsoft Word: ~WRD0000.doc
    """,
    re.VERBOSE | re.DOTALL,
)
_FOLDER_FORMS = re.compile(
    r"""
      \.trash-[0-9]+                     # one per user, on drives of Linux desktops
    | .+ \. [^.]+ \. download            # unfinished downloads of Safari: contract.pdf.download
    """,
    re.VERBOSE | re.DOTALL,
)


def is_temporary_file(name: str) -> bool:
    """Whether a file name, without its path, is that of a temporary file."""
    lower = name.lower()
    return (
        lower in _FILES
        or lower.startswith(_BEGINNINGS)
        or lower.endswith(_ENDINGS)
        or _FORMS.fullmatch(lower) is not None
    )


def is_temporary_folder(name: str) -> bool:
    """Whether everything in a folder of this name is temporary."""
    lower = name.lower()
    return lower in _FOLDERS or _FOLDER_FORMS.fullmatch(lower) is not None


def temporary_patterns(patterns: Iterable[str]) -> list[str]:
    """The include patterns that name temporary files explicitly, such as `*.tmp` or `Thumbs.db`.

    `*.docx` and `*` do not, although they match `~$contract.docx`.
    """
    return [pattern for pattern in patterns if _names_temporary_files(pattern)]


def _names_temporary_files(pattern: str) -> bool:
    *folders, last = pattern.strip("/").split("/")
    return is_temporary_file(last) or any(is_temporary_folder(name) for name in (*folders, last))
