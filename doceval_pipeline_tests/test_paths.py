"""Paths are resolved as the kernel resolves them."""

import os
import pwd
from pathlib import Path

import pytest

from doceval_pipeline.errors import ConfigurationError, PathError
from doceval_pipeline.paths import file_path, real_path
from doceval_pipeline.settings import Settings


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """`link` leads to `deep/inside`, so that `link/..` is `deep` and not this folder."""
    root = tmp_path.resolve()
    (root / "deep" / "inside").mkdir(parents=True)
    (root / "link").symlink_to("deep/inside")
    (root / "loop").symlink_to("loop")
    return root


@pytest.mark.parametrize(
    "spelling",
    ["link/../docs", "./link/..//docs/", "deep/docs", "deep/./inside/../docs/.", "link/../../deep/docs"],
)
def test_a_folder_has_one_path_however_it_is_spelled(tree: Path, spelling: str) -> None:
    (tree / "deep" / "docs").mkdir()
    expected = tree / "deep" / "docs"
    assert real_path(spelling, str(tree)) == expected
    assert real_path(f"{tree}/{spelling}") == expected
    assert real_path(f"//{tree}/{spelling}") == expected
    assert os.path.samefile(f"{tree}/{spelling}", expected)


def test_a_home_folder_is_replaced_and_a_literal_tilde_is_not(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tree))
    user = pwd.getpwuid(os.getuid())
    assert real_path("~/deep") == tree / "deep"
    assert real_path("~") == tree
    assert real_path(f"~{user.pw_name}") == Path(os.path.realpath(user.pw_dir))
    assert real_path("./~/deep", str(tree)) == tree / "~" / "deep"
    assert file_path("~/x.csv") == tree / "x.csv"


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "~nobody-of-this-name"])
def test_an_unknown_user_is_named_and_not_taken_for_a_folder(path: str) -> None:
    with pytest.raises(
        PathError, match=r"no home folder is known for '~nobody-of-this-name': write the full"
    ):
        real_path(path)


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_not_absolute_is_refused(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    with pytest.raises(PathError, match="HOME is not an absolute path"):
        real_path("~/documents")


@pytest.mark.parametrize("path", ["results/", "results/.", "results/.."])
def test_a_file_is_not_named_as_a_folder(path: str) -> None:
    with pytest.raises(PathError, match="is the path of a folder: give the path of a file"):
        file_path(path)


def test_a_current_folder_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(PathError, match="the current folder no longer exists"):
        real_path("docs")


def test_an_installation_has_one_home_however_it_is_spelled(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    monkeypatch.setenv("HOME", str(tree))
    for spelling in ("link/../home", f"{tree}/link/../home", "~/deep/home", "deep//home/"):
        assert Settings.from_environment({"DOCEVAL_HOME": spelling}).home == tree / "deep" / "home"


@pytest.mark.parametrize("value", ["~nobody-of-this-name/home", "a\0b"])
def test_a_home_that_cannot_be_found_is_named_in_one_line(value: str) -> None:
    with pytest.raises(ConfigurationError, match="DOCEVAL_HOME cannot be used: ") as caught:
        Settings.from_environment({"DOCEVAL_HOME": value})
    assert len(str(caught.value).splitlines()) == 1
