"""The files in deploy/ are valid, start commands that exist, and hold no secret. They are not run here."""

import configparser
import json
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from doceval_pipeline.cli import cli
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.fresh_clone import PROJECT

DEPLOY = PROJECT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
OURS = {name: one for name, one in COMPOSE["services"].items() if one["image"] == "doceval"}


def parse(words: list[str]) -> None:
    """Parse a doceval command with its options."""
    command = cli.commands[words[0]]
    command.make_parser(click.Context(command)).parse_args(words[1:])


def unit(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[method-assign,assignment]
    parsed.read_string(path.read_text())
    return parsed


def test_the_compose_file_fits_the_schema_of_compose_files() -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


def test_each_service_of_ours_is_confined_and_starts_a_command_that_exists() -> None:
    assert OURS.keys() == {"init", "webserver", "daemon", "processor"}
    for name, one in OURS.items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        if "entrypoint" not in one:
            parse(one["command"])
    for name in ("webserver", "daemon", "postgres"):
        assert "healthcheck" in COMPOSE["services"][name]
    assert COMPOSE["services"]["webserver"]["ports"] == ["127.0.0.1:3000:3000"]


def test_services_name_volumes_and_services_that_exist() -> None:
    for one in COMPOSE["services"].values():
        assert one.get("depends_on", {}).keys() <= COMPOSE["services"].keys()
        named = {volume.split(":")[0] for volume in one.get("volumes", ())}
        assert {name for name in named if name[0] not in "./$"} <= COMPOSE["volumes"].keys()
    for file in ("databases.sh", "Dockerfile", "Dockerfile.dockerignore"):
        assert (DEPLOY / file).is_file()


def test_the_dockerfile_has_nothing_that_the_linter_knows() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_dockerfile_copies_what_exists_and_ends_as_another_user_than_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users == ["10001:10001"]
    for source in re.findall(r"^COPY (?:--from=build /src/)?(\w\S*) ", text, re.MULTILINE):
        assert (PROJECT / source).exists()


def test_shell_files_can_be_read_by_a_shell() -> None:
    subprocess.run(["sh", "-n", DEPLOY / "databases.sh"], check=True)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists_as_another_user_than_root(path: Path) -> None:
    service = unit(path)["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program == "/opt/doceval/bin/doceval"
    parse(words)
    assert service["User"] == "doceval"
    assert path.stem == f"doceval-{words[words.index('--only') + 1]}"


def test_the_example_of_variables_is_accepted_and_every_secret_has_to_be_filled_in() -> None:
    lines = (DEPLOY / "doceval.env.example").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    settings = Settings.from_environment(variables)
    assert settings.ui_hosts == {"doceval.example.org"}
    texts = [path.read_text() for path in DEPLOY.rglob("*") if path.is_file()]
    passwords = {word for text in texts for word in re.findall(r"://[^:/@\s]+:([^@\s]+)@", text)}
    assert {word for word in passwords if not re.fullmatch(r"CHANGE_ME|\$\{\w+:\?\}", word)} == set()
