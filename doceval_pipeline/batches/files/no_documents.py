"""Why a batch has no usable document, and what to do. Pure: no database, no files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from doceval_pipeline.doc_eval.files import Tally
from doceval_pipeline.documents.walk import EXCLUDED, HIDDEN, NOT_INCLUDED, SYMLINK, TEMPORARY
from doceval_pipeline.reports.formatting import counted

MOST_EXTENSIONS = 5
# What to do about files that are left out for a reason; docs/files.md describes all reasons.
_REMEDIES = {
    TEMPORARY: "temporary files are used if a pattern under include names them",
    HIDDEN: "hidden files are used if the hidden folder itself is named under folders",
    SYMLINK: "for files behind links, name the folder that they are in",
}


def no_documents(config: Mapping[str, Any], tallies: Sequence[Tally], left_out: Iterable[str]) -> str:
    """One line for a batch without any usable file.

    Parameters
    ----------
    config
        The batch's sealed configuration.
    tallies
        All its files by state and reason.
    left_out
        Paths of the files that its patterns leave out.
    """
    files = sum(tally.files for tally in tallies)
    reasons = ", ".join(f"{tally.files} {tally.reason}" for tally in tallies) or "the folders are empty"
    folders = ", ".join(folder["path"] for folder in config["folders"])
    problem = f"has no usable document ({reasons})"
    again = f"put documents into {folders} and stage the batch again"
    remedies = [_REMEDIES[tally.reason] for tally in tallies if tally.reason in _REMEDIES]
    if remedies:
        again = f"{again} ({'; '.join(remedies)})"
    if not any(tally.reason in (NOT_INCLUDED, EXCLUDED) for tally in tallies):
        return f"{problem}: {again}"
    summary = f"{counted(files, 'file', 'files')} found, {_by_patterns(config['batch'], tallies)}"
    return (
        f"{problem}: {summary} (extensions: {_extensions(left_out)}): apply the batch under a new name with "
        f"other patterns, or {again}"
    )


def _by_patterns(batch: Mapping[str, Any], tallies: Sequence[Tally]) -> str:
    numbers = Counter({tally.reason: tally.files for tally in tallies})
    files = sum(numbers.values())
    not_included = (
        "none matches" if numbers[NOT_INCLUDED] == files else f"{numbers[NOT_INCLUDED]:,} do not match"
    )
    excluded = "all match" if numbers[EXCLUDED] == files else f"{numbers[EXCLUDED]:,} match"
    parts = (
        f"{not_included} include {batch['include']}" if numbers[NOT_INCLUDED] else "",
        f"{excluded} exclude {batch['exclude']}" if numbers[EXCLUDED] else "",
    )
    return ", ".join(filter(None, parts))


def _extensions(paths: Iterable[str]) -> str:
    extensions = Counter(PurePosixPath(path).suffix or "no extension" for path in paths)
    first = sorted(extensions.items(), key=lambda item: (-item[1], item[0]))[:MOST_EXTENSIONS]
    shown = ", ".join(f"{number:,} × {extension}" for extension, number in first)
    return shown if len(extensions) <= MOST_EXTENSIONS else f"{shown} and others"
