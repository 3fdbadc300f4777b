"""Under which account root's server runs, and what it says where that account cannot go."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.embedded.account import choose_account, first_closed
from doceval_pipeline.errors import EmbeddedServerError
from doceval_pipeline_tests.unprivileged import NOBODY

SOMEBODY = 4711


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can enter; pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture
def program(folder: Path) -> Path:
    """A program in the folder `closed`, which is open as yet."""
    program = folder / "closed" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("mode", "owner", "group", "others"),
    [
        (0o755, True, True, True),
        (0o711, True, True, True),
        (0o750, True, True, False),
        (0o700, True, False, False),
        (0o644, False, False, False),
        (0o701, True, False, True),
    ],
)
def test_the_first_folder_that_a_user_cannot_enter_is_found(
    folder: Path, program: Path, mode: int, owner: bool, group: bool, others: bool
) -> None:
    closed = folder / "closed"
    found = closed.stat()
    program.parent.chmod(0o777)
    closed.chmod(mode)
    users = {(found.st_uid, SOMEBODY): owner, (SOMEBODY, found.st_gid): group, (SOMEBODY, SOMEBODY): others}
    for (uid, gid), enters in users.items():
        assert first_closed(closed, uid, gid) == (None if enters else closed)
    closed.chmod(0o755)


def test_a_link_does_not_hide_a_closed_folder_on_either_side(folder: Path, program: Path) -> None:
    (folder / "private").mkdir(mode=0o700)
    (folder / "private" / "link").symlink_to(folder / "closed")
    (folder / "link").symlink_to(folder / "closed")
    through_private, to_closed = folder / "private" / "link" / "bin", folder / "link" / "bin"
    assert first_closed(through_private, SOMEBODY, SOMEBODY) == folder / "private"
    assert first_closed(to_closed, SOMEBODY, SOMEBODY) is None
    (folder / "closed").chmod(0o700)
    assert first_closed(to_closed, SOMEBODY, SOMEBODY) == folder / "link"


def test_a_program_that_only_its_owner_can_execute_is_closed(program: Path) -> None:
    """As pip leaves it where the umask is 077."""
    program.chmod(0o700)
    assert first_closed(program, SOMEBODY, SOMEBODY) == program


@pytest.mark.parametrize("namespaces", [True, False])
def test_an_error_names_the_folder_that_the_server_of_root_cannot_enter(
    folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch, namespaces: bool
) -> None:
    """Below /root where namespaces are refused, and in the home of another user where they work."""
    closed = folder / "closed"
    if os.geteuid() == 0 and namespaces:
        os.chown(closed, NOBODY, NOBODY)
    monkeypatch.setattr("doceval_pipeline.embedded.account._namespaces_work", lambda: namespaces)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    home = folder / "home"
    home.mkdir(mode=0o711)
    account = choose_account(home, None, program)
    assert account.uid == (0 if namespaces else NOBODY)
    closed.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match=f"other users cannot enter {closed}: move this project"):
        choose_account(home, None, program)
    with pytest.raises(EmbeddedServerError, match=f"other users cannot enter {closed}: set DOCEVAL_HOME"):
        choose_account(closed, None, Path("/bin/sh"))
