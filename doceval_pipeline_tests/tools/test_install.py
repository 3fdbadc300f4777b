"""`make setup`, with programs that record what they are asked in place of uv and pip."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doceval_pipeline_tests.fresh_clone import PROJECT, environment_of, fresh_clone
from tools import install

DIRECT = re.compile(r"https?:|git\+|@ ")
# Creates an environment from the Python that runs the tests, and notes what it should install.
UV = """#!/bin/sh
echo "$@" >> "$UV_LOG"
case "$*" in
*" venv "*)
    mkdir -p .venv/bin
    printf '#!/bin/sh\\nexec {python} "$@"\\n' > .venv/bin/python
    chmod +x .venv/bin/python
    ;;
*"$UV_FAILS"*) exit 1 ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone with a stand-in for uv on its path."""
    made = fresh_clone(tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "uv").write_text(UV.format(python=sys.executable))
    (programs / "uv").chmod(0o755)
    return made


def start(clone: Path, lock: str, fails: str = "nothing") -> subprocess.Popen[str]:
    environment = environment_of(clone)
    environment |= {
        "PATH": f"{clone.parent / 'programs'}{os.pathsep}{environment['PATH']}",
        "UV_LOG": str(clone.parent / "log"),
        "UV_FAILS": fails,
    }
    return subprocess.Popen(
        [sys.executable, "tools/install.py", lock],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def installed(clone: Path, lock: str, fails: str = "nothing") -> list[str]:
    """Install successfully; the lock files and projects that uv was asked for, in order."""
    log = clone.parent / "log"
    log.unlink(missing_ok=True)
    running = start(clone, lock, fails)
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 0, said
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[-1] for line in lines if " install " in line]


def test_an_installation_is_made_once(clone: Path) -> None:
    assert installed(clone, install.RUNTIME) == [install.RUNTIME, "."]
    assert (clone / ".env").exists()
    assert installed(clone, install.RUNTIME) == []


def test_the_lock_file_of_development_contains_the_other(clone: Path) -> None:
    assert installed(clone, install.DEVELOPMENT) == [install.DEVELOPMENT, "."]
    assert installed(clone, install.RUNTIME) == []


def test_packages_are_compiled_also_where_python_writes_no_bytecode(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    module = clone / ".venv/lib/python3.11/site-packages/package/module.py"
    module.parent.mkdir(parents=True)
    module.write_text("answer = 42\n")
    (module.parent / "for_another_python.py").write_text("print 42\n")
    installed(clone, install.RUNTIME)
    assert len(list(module.parent.glob("__pycache__/module.*.pyc"))) == 1


def test_what_a_new_version_installs_makes_development_install_again(clone: Path) -> None:
    installed(clone, install.DEVELOPMENT)
    locked = (clone / install.RUNTIME).read_text()
    (clone / install.RUNTIME).write_text(f"{locked}# new\n")
    (clone / install.DEVELOPMENT).write_text(f"{(clone / install.DEVELOPMENT).read_text()}# new\n")
    assert installed(clone, install.RUNTIME) == [install.RUNTIME, "."]
    assert installed(clone, install.DEVELOPMENT) == [install.DEVELOPMENT, "."]


def test_the_empty_stamp_of_an_earlier_version_does_not_count(clone: Path) -> None:
    installed(clone, install.RUNTIME)
    (clone / ".venv" / ".installed").write_text("")
    assert installed(clone, install.RUNTIME) == [install.RUNTIME, "."]


def test_of_two_at_once_the_second_finds_what_the_first_installed(clone: Path) -> None:
    both = [start(clone, install.RUNTIME) for _ in range(2)]
    for one in both:
        said, _ = one.communicate(timeout=120)
        assert one.returncode == 0, said
    log = (clone.parent / "log").read_text()
    assert log.count(" venv ") == 1
    assert log.count("--editable") == 1


def test_the_second_waits_for_a_child_of_a_killed_one(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    with install.alone(venv) as held:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[held])
    with (venv / ".installing").open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_empty_cache_is_filled_from_the_network(clone: Path) -> None:
    asked = installed(
        clone, install.RUNTIME, fails="--offline pip install --python .venv/bin/python --no-deps --re"
    )
    assert asked == [install.RUNTIME, install.RUNTIME, "."]


@pytest.mark.parametrize("is_link", [True, False])
def test_what_is_not_an_environment_is_refused_in_one_line(clone: Path, is_link: bool) -> None:
    venv = clone / ".venv"
    if is_link:
        venv.symlink_to("nowhere")
    else:
        venv.touch()
    said, _ = (running := start(clone, install.RUNTIME)).communicate(timeout=120)
    what = "a link to a folder that does not exist" if is_link else "not a folder"
    assert (running.returncode, said) == (1, f".venv is {what}: remove it, and repeat the command\n")


def test_packages_of_a_killed_installation_are_installed_again(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, complete in (("whole-1.0", True), ("cut-1.0", False)):
        record = packages / f"{name}.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text("")
        if complete:
            (record / "INSTALLER").write_text("pip")
    install.remove_incomplete(tmp_path)
    assert [record.name for record in packages.iterdir()] == ["whole-1.0.dist-info"]


def test_an_environment_whose_python_was_removed_gets_another(tmp_path: Path) -> None:
    create = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path)]
    subprocess.run(create, check=True)
    (tmp_path / "bin/python3").unlink(missing_ok=True)
    (tmp_path / "bin/python3").symlink_to("/removed/python3")
    (tmp_path / "bin/python").unlink(missing_ok=True)
    (tmp_path / "bin/python").symlink_to("python3")
    install.remove_dangling(tmp_path)
    subprocess.run(create, check=True)
    assert install.can_run(tmp_path / "bin/python")


def test_make_installs_again_after_the_python_was_removed(clone: Path) -> None:
    installed(clone, install.RUNTIME)
    asked = [shutil.which("make") or "make", "--dry-run", "setup"]
    plan = {"cwd": clone, "capture_output": True, "text": True, "check": True}
    assert "install.py" not in subprocess.run(asked, **plan).stdout
    (clone / ".venv/bin/python").unlink()
    (clone / ".venv/bin/python").symlink_to("/removed/python3")
    assert "install.py" in subprocess.run(asked, **plan).stdout


def packages_of(lock: str) -> set[tuple[str, str]]:
    """The name and the version of each package in a lock file."""
    return set(re.findall(r"^([a-z0-9-]+)==(\S+)", (PROJECT / lock).read_text(), re.MULTILINE))


def test_development_has_all_packages_in_the_same_versions() -> None:
    assert packages_of(install.RUNTIME) <= packages_of(install.DEVELOPMENT)


@pytest.mark.parametrize("lock", [install.RUNTIME, install.DEVELOPMENT])
def test_each_package_is_locked_by_its_hash_and_no_host(lock: str) -> None:
    text = (PROJECT / lock).read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(packages_of(lock))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not DIRECT.search(text)


def test_the_first_lock_file_has_what_documented_commands_need_and_no_tools() -> None:
    names = {name for name, _ in packages_of(install.RUNTIME)}
    assert {"dagster", "dagster-dg-cli", "openai", "pyarrow", "flit-core", "pip"} <= names
    assert not {"pytest", "mypy", "ruff", "playwright", "matplotlib"} & names


@pytest.mark.parametrize("lock", [install.RUNTIME, install.DEVELOPMENT])
def test_pip_is_installed_first_with_all_its_hashes(lock: str) -> None:
    only = install.only_pip((PROJECT / lock).read_text())
    assert only.startswith("pip==")
    assert only.count("--hash=sha256:") >= 1
    assert only.count("==") == 1
    assert not only.rstrip().endswith("\\")
