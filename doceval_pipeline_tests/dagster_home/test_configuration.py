"""Which dagster.yaml counts: the project's in a checkout, the user's own everywhere."""

from pathlib import Path

import pytest
import yaml

from doceval_pipeline.dagster_home import configuration
from doceval_pipeline.dagster_home.configuration import DEFAULTS, EARLIER, SHIPPED, place_configuration
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings, project_root

LAST_EARLIER = sorted(EARLIER.iterdir())[-1].read_text()


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed wheel has no project around it."""
    monkeypatch.setattr(configuration, "project_root", lambda: None)


def release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Another release, with these defaults."""
    shipped = tmp_path / "next.yaml"
    shipped.write_text(text)
    monkeypatch.setattr(configuration, "SHIPPED", shipped)


def before(settings: Settings, text: str) -> Path:
    """A home in which this file stands."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    file = settings.dagster_home / "dagster.yaml"
    file.write_text(text)
    return file


def test_in_a_checkout_the_projects_own_file_counts(own: Settings) -> None:
    root = project_root()
    assert root is not None
    assert place_configuration(own).resolve() == root / "dagster.yaml"
    assert SHIPPED.resolve() == root / "dagster.yaml"
    assert place_configuration(own).resolve() == root / "dagster.yaml"
    assert [path.name for path in own.dagster_home.iterdir()] == ["dagster.yaml"]
    assert own.dagster_home.stat().st_mode & 0o777 == 0o700


def test_a_file_of_the_users_own_wins_over_the_projects(own: Settings) -> None:
    text = SHIPPED.read_text().replace("max_concurrent_runs:", "max_concurrent_runs: 2 #")
    file = before(own, text)
    assert place_configuration(own) == file
    assert not file.is_symlink()
    assert file.read_text() == text


def test_a_link_of_the_users_own_stays(own: Settings, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("telemetry: {enabled: false}\n")
    own.dagster_home.mkdir(parents=True)
    link = own.dagster_home / "dagster.yaml"
    link.symlink_to(tmp_path / "mine.yaml")
    place_configuration(own)
    assert link.resolve() == tmp_path / "mine.yaml"
    assert (tmp_path / "mine.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_a_link_to_a_checkout_that_was_moved_is_made_again(own: Settings, tmp_path: Path) -> None:
    own.dagster_home.mkdir(parents=True)
    (own.dagster_home / "dagster.yaml").symlink_to(tmp_path / "gone" / "dagster.yaml")
    assert place_configuration(own).resolve() == SHIPPED.resolve()


@pytest.mark.usefixtures("wheel")
def test_a_wheel_writes_its_defaults_once(own: Settings) -> None:
    file = place_configuration(own)
    assert file.read_text() == SHIPPED.read_text()
    written = file.stat()
    place_configuration(own)
    assert file.stat().st_mtime_ns == written.st_mtime_ns


@pytest.mark.usefixtures("wheel")
def test_a_later_release_adds_defaults_and_touches_no_edit(
    own: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = place_configuration(own)
    file.chmod(0o640)
    file.write_text(SHIPPED.read_text().replace("enabled: true", "enabled: false  # for a week", 1))
    place_configuration(own)
    assert file.read_text().count("# for a week") == 1
    release(monkeypatch, tmp_path, SHIPPED.read_text() + "\nfreshness:\n  enabled: false\n")
    place_configuration(own)
    assert file.read_text().count("# for a week") == 1
    assert yaml.safe_load(file.read_text())["freshness"] == {"enabled": False}
    assert file.stat().st_mode & 0o777 == 0o640
    # Removed by the user, it does not come back with the release after that.
    file.write_text(file.read_text().replace("freshness:\n  enabled: false\n", ""))
    place_configuration(own)
    assert "freshness" not in yaml.safe_load(file.read_text())


@pytest.mark.usefixtures("wheel")
def test_an_unedited_file_of_a_wheel_becomes_the_next_releases(
    own: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = place_configuration(own)
    release(monkeypatch, tmp_path, "# Only this.\ntelemetry:\n  enabled: false\n")
    place_configuration(own)
    assert file.read_text() == "# Only this.\ntelemetry:\n  enabled: false\n"


@pytest.mark.parametrize("earlier", sorted(EARLIER.iterdir()), ids=lambda path: path.stem)
def test_an_untouched_file_of_an_earlier_version_gives_way(own: Settings, earlier: Path) -> None:
    before(own, earlier.read_text())
    assert place_configuration(own).resolve() == SHIPPED.resolve()


def test_an_edited_file_of_an_earlier_version_keeps_its_edits_and_needs_no_variable(own: Settings) -> None:
    file = before(own, LAST_EARLIER.replace("max_concurrent_runs: 4", "max_concurrent_runs: 11"))
    place_configuration(own)
    expected = yaml.safe_load(SHIPPED.read_text())
    expected["concurrency"]["runs"]["max_concurrent_runs"] = 11
    assert yaml.safe_load(file.read_text()) == expected


def test_where_no_link_can_be_made_the_file_is_copied_and_follows_the_project(
    own: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    file = place_configuration(own)
    assert not file.is_symlink()
    assert file.read_text() == SHIPPED.read_text()
    release(monkeypatch, tmp_path, "telemetry:\n  enabled: false\n")
    assert place_configuration(own).read_text() == "telemetry:\n  enabled: false\n"


@pytest.mark.usefixtures("wheel")
def test_a_link_to_a_checkout_that_is_gone_becomes_a_copy(own: Settings, tmp_path: Path) -> None:
    own.dagster_home.mkdir(parents=True)
    (own.dagster_home / "dagster.yaml").symlink_to(tmp_path / "gone" / "dagster.yaml")
    file = place_configuration(own)
    assert not file.is_symlink()
    assert (own.dagster_home / DEFAULTS).read_text() == file.read_text() == SHIPPED.read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("run_queue: [\n", r"dagster\.yaml:2: not valid YAML \(.*\): fix it; .*dagster.yaml shows"),
        ("- a list\n", r"dagster\.yaml: not a mapping"),
        ("just words\n", r"dagster\.yaml: not a mapping"),
        ("a: \x00\n", r"dagster\.yaml: not valid YAML in UTF-8"),
    ],
)
def test_a_file_that_is_no_configuration_is_named_in_one_line(own: Settings, text: str, problem: str) -> None:
    file = before(own, text)
    with pytest.raises(ConfigurationError, match=problem) as refused:
        place_configuration(own)
    assert "\n" not in str(refused.value)
    assert file.read_text() == text


def test_a_home_that_cannot_be_used_is_named_in_one_line(own: Settings) -> None:
    own.home.mkdir()
    own.dagster_home.write_text("not a folder")
    with pytest.raises(
        ConfigurationError, match=r"home/dagster cannot be used for Dagster's home \(File exists\)"
    ):
        place_configuration(own)
