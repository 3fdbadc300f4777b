"""The pages of the documentation, and what tests read from them: blocks, commands, links and anchors."""

import re
import shlex
import shutil
from pathlib import Path

from doceval_pipeline_tests.cli.running import doceval

PROJECT = Path(__file__).resolve().parents[1]
CONTRACTS = PROJECT / "doceval_pipeline" / "sample" / "contracts"
PAGES = {
    str(path.relative_to(PROJECT)): path.read_text()
    for path in sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
}
README = PAGES["README.md"]
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def blocks(document: str, language: str) -> list[str]:
    """Return the fenced blocks of one language, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def block(document: str, language: str, containing: str) -> str:
    """Return the only fenced block of a language that contains a text."""
    (only,) = [each for each in blocks(document, language) if containing in each]
    return only


def doceval_commands(console: str) -> list[list[str]]:
    """Return the arguments of each `$ doceval …` line of a console block, without comments and pipes."""
    lines = [line for line in console.splitlines() if line.startswith("$ doceval ")]
    return [shlex.split(line.partition(" | ")[0], comments=True)[2:] for line in lines]


def without_blocks(document: str) -> str:
    """Return a page without its fenced blocks, which hold no headings and no links."""
    return _FENCED.sub("", document)


def links(document: str) -> list[str]:
    """Return the targets of all links and pictures that lead into the project."""
    targets = _LINK.findall(without_blocks(document))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(document: str) -> set[str]:
    """Return the anchors of a page, as GitHub makes them: of its headings, and those set by hand."""
    prose = without_blocks(document)
    found: set[str] = set(re.findall(r'<a id="([^"]+)"></a>', prose))
    for heading in re.findall(r"^#{1,6} (.+)$", prose, re.MULTILINE):
        text = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
        slug = text.replace(" ", "-")
        copies = [slug, *(f"{slug}-{number}" for number in range(1, 100))]
        found.add(next(copy for copy in copies if copy not in found))
    return found


def stage_contracts(folder: Path, batch: str = "contracts-q4") -> None:
    """Apply and stage the example of docs/evaluation_file.md, over the sample contracts."""
    evaluation, _ = blocks(PAGES["docs/evaluation_file.md"], "yaml")
    (folder / "evaluation.yaml").write_text(evaluation.replace("contracts-q4", batch))
    shutil.copytree(CONTRACTS, folder / "contracts")
    assert doceval("apply", str(folder / "evaluation.yaml")).returncode == 0
    assert doceval("stage", batch).returncode == 0
