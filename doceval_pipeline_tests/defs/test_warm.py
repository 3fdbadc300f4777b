"""The warm process imports the project once, and its runs execute the code on disk."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "doceval_pipeline"
# What a fork does before it executes a run, after a file of the project changed or not.
CODE = """
import json, sys
from importlib import import_module
from pathlib import Path
from doceval_pipeline.defs.warm import code_files, forget_project, import_project
imported = import_project()
before = code_files() == imported
change = sys.argv[1]
package = Path(sys.modules["doceval_pipeline"].__file__).parent
if change == "edit":
    with (package / "names.py").open("a") as file:
        file.write("MARK = 1\\n")
elif change == "add":
    (package / "added.py").write_text("MARK = 1\\n")
elif change == "delete":
    (package / "cli" / "trying.py").unlink()
after = code_files() == imported
forget_project()
names = import_module("doceval_pipeline.names")
again = import_module("doceval_pipeline.definitions").defs() is not None
print(json.dumps([before, after, hasattr(names, "MARK"), again]))
"""


@pytest.mark.parametrize(
    ("change", "is_same", "is_marked"),
    [("none", True, False), ("edit", False, True), ("add", False, False), ("delete", False, False)],
)
def test_a_run_imports_the_project_again_if_a_file_of_it_changed(
    tmp_path: Path, change: str, is_same: bool, is_marked: bool
) -> None:
    shutil.copytree(PACKAGE, tmp_path / "doceval_pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, change],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert json.loads(answer.stdout) == [True, is_same, is_marked, True]


def test_a_project_that_cannot_be_imported_is_left_to_the_runs(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "doceval_pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    broken = tmp_path / "doceval_pipeline" / "definitions.py"
    whole = broken.read_text()
    broken.write_text("this is no Python")
    code = (
        "import sys; from pathlib import Path\n"
        "from doceval_pipeline.defs.warm import code_files, forget_project, import_project\n"
        "imported = import_project()\n"
        "Path('doceval_pipeline/definitions.py').write_text(sys.stdin.read())\n"
        "assert code_files() != imported\n"
        "forget_project()\n"
        "import doceval_pipeline.definitions\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        input=whole,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
