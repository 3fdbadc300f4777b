"""docs/recurring.md, docs/batches.md and the reference of keys, held against the code."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.cli import cli
from doceval_pipeline.cli.recurring import recurring as group
from doceval_pipeline.doc_eval.definitions.evaluation_file import load_evaluation_file
from doceval_pipeline.doc_eval.definitions.schema import (
    BatchDefinition,
    ChoiceDefinition,
    RecurringDefinition,
)
from doceval_pipeline.domain.recurring import OccurrenceOutcome

PROJECT = Path(__file__).resolve().parents[1]
RECURRING = (PROJECT / "docs" / "recurring.md").read_text()
REFERENCE = (PROJECT / "docs" / "evaluation_file.md").read_text().split("## Recurring evaluations")[1]
BATCHES = (PROJECT / "docs" / "batches.md").read_text()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def commands(document: str) -> list[list[str]]:
    """The lines of its console blocks about recurring evaluations, as arguments."""
    lines = [line for block in blocks(document, "console") for line in block.splitlines()]
    own = [line for line in lines if line.startswith("$ doceval recurring ")]
    return [shlex.split(line, comments=True)[2:] for line in own]


def test_the_first_example_and_its_commands_work_in_their_order(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example, arrivals = blocks(RECURRING, "yaml")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.txt").write_text("a")
    (tmp_path / "evaluation.yaml").write_text(example)
    monkeypatch.chdir(tmp_path)
    head, _ = example.split("recurring:")
    (tmp_path / "arrivals.yaml").write_text(head + arrivals)
    outputs = {}
    for words in (["apply", "arrivals.yaml"], ["apply", "evaluation.yaml"], *commands(RECURRING)):
        ended = CliRunner().invoke(cli, words)
        assert ended.exit_code == 0, (words, ended.output)
        outputs[" ".join(words)] = ended.output
    assert "1 usable file" in outputs["apply evaluation.yaml"]
    assert "is created (1 new, 0 changed, 0 unchanged, 0 gone)" in outputs["recurring run inbox"]
    assert "when documents arrive" in outputs["recurring list"]
    assert "MADE" in outputs["recurring list inbox"]
    assert "inbox is paused" in outputs["recurring pause inbox"]
    assert "inbox is resumed; next " in outputs["recurring resume inbox"]
    assert "1 batch that it created is kept; still open: batch-" in outputs["recurring delete inbox"]


def test_the_example_file_is_valid_and_every_command_is_documented() -> None:
    load_evaluation_file(PROJECT / "examples" / "recurring.yaml").refuse()
    named = set(re.findall(r"doceval recurring ([a-z]+)", RECURRING + BATCHES))
    assert named == set(group.commands)
    assert {words[1] for words in commands(BATCHES)} <= named
    assert set(re.findall(r"^\| `([A-Z]+)` \|", RECURRING, re.MULTILINE)) == set(OccurrenceOutcome)


def test_the_reference_names_every_key_and_its_default() -> None:
    before, table = REFERENCE.split("| key | value | default |")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (?:`(\w+)`)? ?\|$", table.split("\n## ")[0], re.MULTILINE)
    own = {
        key: field
        for key, field in RecurringDefinition.model_fields.items()
        if key not in ChoiceDefinition.model_fields
    }
    assert [key for key, _ in rows] == list(own)
    defaults = {key: "" if field.default is None else str(field.default) for key, field in own.items()}
    assert {key: shown.replace("true", "True").replace("false", "False") for key, shown in rows} == defaults
    assert set(ChoiceDefinition.model_fields) <= set(re.findall(r"`(\w+)`", before))
    assert f"its default is `{BatchDefinition.model_fields['reuse'].default}`" in REFERENCE
