"""Patterns match either Unicode form; files that they miss because of letter case are reported."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from doceval_pipeline.documents.patterns import Patterns, missed_by_case
from doceval_pipeline.documents.walk import Rules, walk

FORMS = ("NFC", "NFD")


@pytest.mark.parametrize("pattern_form", FORMS)
@pytest.mark.parametrize("name_form", FORMS)
@pytest.mark.parametrize(
    "pattern",
    ["Prüfung.pdf", "Prüfung*", "Pr?fung.pdf", "Ablage ä/", "Ablage ä/Prüfung.pdf", "**/Pr[ü]fung.pdf"],
)
def test_a_pattern_matches_a_name_in_either_unicode_form(
    tmp_path: Path, pattern: str, pattern_form: str, name_form: str
) -> None:
    name = unicodedata.normalize(name_form, "Ablage ä/Prüfung.pdf")
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("x")
    given = unicodedata.normalize(pattern_form, pattern)  # type: ignore[arg-type] # one of the forms
    (included,) = walk(tmp_path, Rules(include=(given,)))
    (excluded,) = walk(tmp_path, Rules(exclude=(given,)))
    assert (included.path, included.state) == (name.encode(), "ASSIGNED")
    assert (excluded.path, excluded.reason) == (name.encode(), "excluded by pattern")


@pytest.mark.parametrize(
    ("patterns", "paths", "files", "remedy"),
    [
        (["*.pdf"], ["sub/X.PDF", "y.Pdf", "z.txt"], 2, "'*.[pP][dD][fF]' for any case"),
        (["*.pdf"], ["sub/X.PDF", "y.PDF"], 2, "'*.PDF', or '*.[pP][dD][fF]' for any case"),
        (["/sub/*.txt"], ["Sub/A.TXT"], 1, "'/[sS][uU][bB]/*.[tT][xX][tT]' for any case"),
        (["U\u0308ber*"], ["\xfcBER.txt"], 1, "'[üÜ][bB][eE][rR]*' for any case"),
        (["*.pdf", "*.txt"], ["A.TXT", "B.PDF"], 2, "'*.[pP][dD][fF]', '*.[tT][xX][tT]' for any case"),
        (["*.txt", "contracts/*.pdf"], ["contracts/X.PDF"], 1, "'contracts/*.PDF', or "),
        (["Contracts/"], ["contracts/x.pdf"], 1, "'[cC][oO][nN][tT][rR][aA][cC][tT][sS]/'"),
        (["*.tar.gz"], ["A.TAR.GZ"], 1, "'*.TAR.GZ', or "),
        (["Prüfung.pdf"], ["PRU\u0308FUNG.PDF"], 1, "'[pP][rR][üÜ][fF][uU][nN][gG].[pP][dD][fF]'"),
        (["[A-C]*.txt"], ["b.txt"], 1, "'[A-Ca-c]*.[tT][xX][tT]'"),
    ],
)
def test_files_that_only_another_case_leaves_out_are_counted(
    patterns: list[str], paths: list[str], files: int, remedy: str
) -> None:
    missed = missed_by_case(patterns, paths)
    assert missed is not None
    assert (missed.files, missed.example) == (files, paths[0])
    assert missed.remedy.startswith(remedy)
    suggested = re.findall(r"'([^']*)'", missed.remedy)
    assert all(Patterns(suggested).match(path) for path in paths if not path.endswith("z.txt"))


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [([], ["X.PDF"]), (["*.pdf"], []), (["*.pdf"], ["x.txt"]), (["*.pdf", "!x.pdf"], ["X.PDF"])],
)
def test_files_that_match_in_no_letter_case_are_not_reported(
    patterns: Sequence[str], paths: list[str]
) -> None:
    assert missed_by_case(patterns, paths) is None


@pytest.mark.parametrize(
    ("pattern", "path"), [("*.pdf", "X.PDF"), ("Verträge/*.txt", "VERTRÄGE/x.TXT"), (r"\#a.txt", "#A.TXT")]
)
def test_the_pattern_that_is_suggested_matches(pattern: str, path: str) -> None:
    missed = missed_by_case([pattern], [path])
    assert missed is not None
    suggested = (
        missed.remedy.removesuffix(" for any case").rsplit(" or ", 1)[-1].strip("'").replace("\\\\", "\\")
    )
    assert Patterns([suggested]).match(path)
    assert Patterns([suggested]).match(pattern.replace("*", "y").replace("\\", ""))
