"""All pages held against the code: commands run or parse, tables name what exists, links resolve."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import click
import dagster as dg
import pytest
import yaml

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.cli import cli
from doceval_pipeline.doc_eval.definitions.schema import (
    BatchDefinition,
    ConnectionDefinition,
    PromptDefinition,
)
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, read_json
from doceval_pipeline_tests.defs.running import definitions
from doceval_pipeline_tests.documentation import (
    CONTRACTS,
    PAGES,
    PROJECT,
    anchors,
    block,
    blocks,
    doceval_commands,
    links,
    stage_contracts,
)

BATCHES = PAGES["docs/batches.md"]
DAGSTER = PAGES["docs/dagster.md"]
ARCHIVE = PAGES["docs/archive.md"]
MANIFEST = ARCHIVE.split("`manifest.json`:")[1].split("```python")[0]
EVALUATION_FILE = PAGES["docs/evaluation_file.md"]
COMMANDS = [
    (page, words)
    for page, document in PAGES.items()
    for console in blocks(document, "console")
    for words in doceval_commands(console)
]


def run_all(console: str, **replacements: str) -> None:
    """Run each doceval command of a block, with words replaced; all must succeed."""
    for words in doceval_commands(console):
        ended = doceval(*(replacements.get(word, word) for word in words))
        assert ended.returncode == 0, (words, ended.stderr)


def finish(databases: Databases) -> None:
    """Answer all rows of the queue, and let the batches notice."""
    assert doceval("simulate-processor", "--until-empty", "--latency", "0").returncode == 0
    poll(databases)


def test_the_commands_of_working_with_batches_work_in_their_order(
    databases: Databases, tmp_path: Path
) -> None:
    evaluation, _ = blocks(EVALUATION_FILE, "yaml")
    (tmp_path / "evaluation.yaml").write_text(evaluation)
    shutil.copytree(CONTRACTS, tmp_path / "contracts")
    ran = []
    for words in doceval_commands(block(BATCHES, "console", "doceval apply")):
        if words[0] == "up":
            continue  # runs until it is ended: tests of its own
        if "--watch" in words:
            finish(databases)
        ended = doceval(*(str(tmp_path / word) if word.endswith(".yaml") else word for word in words))
        assert ended.returncode == 0, (words, ended.stderr)
        ran.append(words[0])
    assert ran == ["apply", "stage", "status", "failures", "list", "documents", "report", "check"]
    (tmp_path / "earlier.yaml").write_text(evaluation.replace("contracts-q4", "contracts-q3"))
    for command in (["apply", str(tmp_path / "earlier.yaml")], ["stage", "contracts-q3"]):
        assert doceval(*command).returncode == 0
    finish(databases)
    for words in doceval_commands(block(BATCHES, "console", "doceval compare")):
        ended = doceval(*(str(tmp_path / word) if word.endswith(".parquet") else word for word in words))
        # The evaluation of the example has one connection.
        assert ended.returncode == (1 if "--connections" in words else 0), (words, ended.stderr)
    assert (tmp_path / "q4.parquet").stat().st_size
    run_all(block(BATCHES, "console", "doceval pause"), **{"--failed": "--all"})
    run_all(block(BATCHES, "console", "--with-failures"))
    finish(databases)
    archived = read_json("archive", "contracts-q4")["archive"]["path"]
    assert re.sub(r"-.*\.", "-.", Path(archived).name) == "batch-.zip"
    away = block(BATCHES, "console", "doceval archive")
    run_all(re.sub(r"batch-\S*\.zip", archived, away))


def test_the_commands_that_start_a_processor_find_the_queue(databases: Databases) -> None:
    lines = block(BATCHES, "console", "doceval env").splitlines()
    script = "\n".join(line.removeprefix("$ ").partition("#")[0] for line in lines)
    script = script.replace(".venv/bin/python", sys.executable).rstrip() + " --until-empty"
    script = script.replace("doceval env", f"{DOCEVAL} env")
    ended = subprocess.run(
        ["bash", "-ec", script], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join([page, *w]) for page, w in COMMANDS])
def test_every_command_in_a_block_exists_with_its_options(page: str, words: list[str]) -> None:
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, (page, words)
        context, command, words = click.Context(found, parent=context), found, words[1:]
    # Parses options without running their callbacks, which would poll for batches and files.
    command.make_parser(context).parse_args(list(words))


def test_every_command_and_make_target_in_the_text_exists() -> None:
    documents = "\n".join(PAGES.values())
    named = set(re.findall(r"`doceval ([a-z][a-z-]+)", documents))
    assert named <= set(cli.list_commands(click.Context(cli)))
    makefile = (PROJECT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|\$ )make ([a-z-]+)", documents)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_leads_to_a_file_and_an_anchor_that_exist() -> None:
    for page, document in PAGES.items():
        for target in links(document):
            path, _, anchor = target.partition("#")
            file = (PROJECT / page).parent / path if path else PROJECT / page
            assert file.exists(), (page, target)
            if anchor:
                assert anchor in anchors(file.read_text()), (page, target)


def test_every_path_of_the_code_that_is_named_exists() -> None:
    for page, document in PAGES.items():
        for path in re.findall(r"`(doceval_pipeline(?:_tests)?/[\w./]+)`", document):
            assert (PROJECT / path).exists(), (page, path)


def test_every_page_is_on_the_map() -> None:
    index = {target.partition("#")[0] for target in links(PAGES["docs/index.md"])}
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"index.md"}
    assert pages <= index


def test_the_table_of_variables_is_complete_and_has_the_defaults() -> None:
    source = (PROJECT / "doceval_pipeline" / "settings.py").read_text()
    used = set(re.findall(r'"((?:DOC|KNOWLEDGE|DAGSTER)[A-Z_]+)"', source))
    page = PAGES["docs/configuration.md"]
    assert used == set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    assert str(Settings.max_document_bytes) in page


def test_the_keys_of_an_evaluation_file_are_those_of_the_schema() -> None:
    for kind, model in (
        ("connection", ConnectionDefinition),
        ("prompt", PromptDefinition),
        ("batch", BatchDefinition),
    ):
        (row,) = re.findall(rf"^\| a {kind} \| (.*) \| (.*?) ?\|$", EVALUATION_FILE, re.MULTILINE)
        required, optional = (set(re.findall(r"`(\w+)`", cell)) for cell in row)
        assert required == {key for key, field in model.model_fields.items() if field.is_required()}
        assert optional == model.model_fields.keys() - required


def test_the_inventory_of_dagster_is_complete() -> None:
    inventory = dict(re.findall(r"^\| (jobs|sensors|schedules)[^|]*\| (.*) \|$", DAGSTER, re.MULTILINE))
    named = {kind: set(re.findall(r"`(\w+)`", text)) for kind, text in inventory.items()}
    repository = definitions.get_repository_def()
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert named["jobs"] == jobs
    assert named["sensors"] == {sensor.name for sensor in repository.sensor_defs}
    assert named["schedules"] == {schedule.name for schedule in repository.schedule_defs}


def test_the_config_for_a_backfill_is_valid() -> None:
    (config,) = blocks(DAGSTER, "yaml")
    job = definitions.resolve_implicit_global_asset_job_def()
    assert dg.validate_run_config(job, yaml.safe_load(config))["ops"]["queue_rows"]["config"] == {
        "mode": "failed"
    }


def test_the_reader_of_archives_reads_one(databases: Databases, tmp_path: Path) -> None:
    stage_contracts(tmp_path)
    doceval("simulate-processor", "--until-empty", "--latency", "0")
    path = Path(read_json("archive", "contracts-q4")["archive"]["path"])
    (reader,) = blocks(ARCHIVE, "python")
    ended = subprocess.run(
        [sys.executable, "-I", "-c", reader, str(path)], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "contracts-q4 2 attempts at 2 documents\n"
    named = set(re.findall(r"`([a-z]+\.(?:json|jsonl|html))`", ARCHIVE))
    with ZipFile(path) as archive:
        assert {name for name in archive.namelist() if not name.startswith("documents/")} == named
        keys = json.loads(archive.read("manifest.json")).keys()
    assert keys == set(
        re.findall(r"`([a-z_]+)`", " ".join(re.findall(r"^\| (.*?) \|", MANIFEST, re.MULTILINE)))
    )


@pytest.mark.parametrize("path", ["examples/evaluation.yaml", "doceval_pipeline/sample/evaluation.yaml"])
def test_the_examples_can_be_applied(databases: Databases, path: str) -> None:
    ended = doceval("apply", str(PROJECT / path))
    assert ended.returncode == 0, ended.stderr
    assert yaml.safe_load((PROJECT / path).read_text())["batches"][0]["name"] in ended.stdout


def test_every_decision_has_a_number_of_its_own_an_anchor_a_date_and_a_status() -> None:
    decisions = PAGES["docs/decisions.md"]
    entry = r'^<a id="(\d+)"></a>\n\n### (\d+)\. .+\n\n\*2026-\d\d-\d\d · (.+)\*$'
    entries = re.findall(entry, decisions, re.MULTILINE)
    assert len(entries) == decisions.count("\n### ")
    assert sorted(int(number) for number, _, _ in entries) == list(range(1, len(entries) + 1))
    for anchor, number, status in entries:
        assert anchor == number
        assert re.match(r"accepted\b|superseded by \[\d+\]\(#\d+\)$", status), number
