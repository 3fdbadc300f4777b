"""Names of files and folders that systems and programs leave behind beside documents.

Only names that no person gives to a document. Backups that may be the only copy (`.bak`, `.old`), links
to documents (`.lnk`, `.url`) and e-mail caches are therefore missing.
"""

import re
from collections.abc import Iterable

# Compared in lower case, since Windows and macOS do not tell the cases apart; the few names of Linux in
# here mean nothing else in capitals.
_FILES = {
    # Windows Explorer
    "thumbs.db",
    "thumbs.db:encryptable",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    # macOS Finder, and its marks on network and memory drives
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
    # Linux: what fsck found
    "lost+found",
    # Synology, QNAP
    "@eadir",
    "#recycle",
    "@recycle",
    ".@__thumb",
}
_BEGINNINGS = (
    "~$",  # who has a file open: Microsoft Office
    ".~",  # the same of LibreOffice (.~lock.x#) and WPS; rsync
    "._",  # resource fork: macOS on other file systems
    # Deleted while open, on FUSE and NFS; half a save of GNOME.
    ".fuse_hidden0",
    ".nfs0",
    ".goutputstream-",
)
_ENDINGS = (
    "~",  # backup of the last save: Emacs, gedit, Kate, Vim
    # Called temporary by whichever program wrote it: ~WRL0001.tmp, contract.docx.tmp
    ".tmp",
    ".temp",
    # Who has a file open: Access, AutoCAD, InDesign
    ".laccdb",
    ".dwl",
    ".dwl2",
    ".idlk",
    # Half a download or copy: Chromium, Opera, Edge, WinSCP, aria2, torrents
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
      \# .+ \#                           # saved every few seconds: Emacs
    | \. .+ \. (sw[a-p] | kate-swp)      # the same of Vim and Kate
    | .+ \. [^.]+ \. part                # half a download of Firefox: contract.pdf.part
    | ~wr[adfl][0-9]{4} \. [a-z]+        # a save of Microsoft Word: ~WRD0000.doc
    """,
    re.VERBOSE | re.DOTALL,
)
_FOLDER_FORMS = re.compile(
    r"""
      \.trash-[0-9]+                     # of each user, on drives of Linux desktops
    | .+ \. [^.]+ \. download            # half a download of Safari: contract.pdf.download
    """,
    re.VERBOSE | re.DOTALL,
)


def is_litter(name: str) -> bool:
    """Whether a file of this name, without its path, was left behind by a system or a program."""
    lower = name.lower()
    return (
        lower in _FILES
        or lower.startswith(_BEGINNINGS)
        or lower.endswith(_ENDINGS)
        or _FORMS.fullmatch(lower) is not None
    )


def is_litter_folder(name: str) -> bool:
    """Whether all that a folder of this name holds was left behind by a system."""
    lower = name.lower()
    return lower in _FOLDERS or _FOLDER_FORMS.fullmatch(lower) is not None


def naming_litter(patterns: Iterable[str]) -> list[str]:
    """The include patterns that ask for litter by name, such as `*.tmp` or `Thumbs.db`.

    A pattern such as `*.docx` or `*` does not, although it matches `~$contract.docx`.
    """
    return [pattern for pattern in patterns if _names_litter(pattern)]


def _names_litter(pattern: str) -> bool:
    *folders, last = pattern.strip("/").split("/")
    return is_litter(last) or any(is_litter_folder(name) for name in (*folders, last))
