"""A release brings its defaults into a file that a user edited: every edit and every comment stays."""

import string
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from doceval_pipeline.dagster_home.configuration import EARLIER, SHIPPED
from doceval_pipeline.dagster_home.merging import IDENTITY, SELECTOR, merge

BEFORE = """\
# What runs side by side.
concurrency:
  runs:
    max_concurrent_runs: 4
    tag_concurrency_limits:
      - key: "dagster/partition"
        limit: 1

run_queue:
  dequeue_interval_seconds: 1

run_launcher:
  module: dagster
  class: DefaultRunLauncher

# Nothing is sent.
telemetry:
  enabled: false
"""
NOW = """\
# What runs side by side.
concurrency:
  runs:
    max_concurrent_runs: 8
    tag_concurrency_limits:
      - key: "dagster/partition"
        limit: 1

run_queue:
  dequeue_interval_seconds: 1
  # Launches are parallel.
  dequeue_use_threads: true

run_launcher:
  module: dagster
  class: DefaultRunLauncher
  config: {env: []}

# A loaded machine starts code servers slowly.
code_servers:
  local_startup_timeout: 360
"""


def test_what_was_left_at_the_old_default_follows_the_new_one() -> None:
    assert yaml.safe_load(merge(BEFORE, BEFORE, NOW)) == yaml.safe_load(NOW)


def test_a_changed_value_stays_and_new_keys_are_added_with_their_comments() -> None:
    mine = BEFORE.replace("max_concurrent_runs: 4", "max_concurrent_runs: 2  # small machine")
    expected = mine.replace(
        "  dequeue_interval_seconds: 1\n",
        "  dequeue_interval_seconds: 1\n  # Launches are parallel.\n  dequeue_use_threads: true\n",
    )
    expected = expected.replace(
        "  class: DefaultRunLauncher\n", "  class: DefaultRunLauncher\n  config: {env: []}\n"
    )
    expected = expected.replace("\n# Nothing is sent.\ntelemetry:\n  enabled: false\n", "")
    added = "\n# A loaded machine starts code servers slowly.\ncode_servers:\n  local_startup_timeout: 360\n"
    assert merge(mine, BEFORE, NOW).split() == (expected + added).split()
    assert "max_concurrent_runs: 2  # small machine" in merge(mine, BEFORE, NOW)


def test_a_comment_beside_a_value_that_follows_stays() -> None:
    mine = BEFORE.replace("max_concurrent_runs: 4", "max_concurrent_runs: 4  # as advised")
    assert "max_concurrent_runs: 8  # as advised" in merge(mine, BEFORE, NOW)


def test_a_comment_inside_and_above_a_block_that_goes_stays() -> None:
    mine = BEFORE.replace("# Nothing is sent.\n", "# Legal asked for this.\n")
    mine = mine.replace("  enabled: false", "  # for good\n  enabled: false")
    after = merge(mine, BEFORE, NOW)
    assert "# Legal asked for this.\n" in after
    assert "# for good\n" in after
    assert "telemetry" not in yaml.safe_load(after)


def test_a_block_that_the_user_removed_stays_removed() -> None:
    mine = BEFORE.replace("run_queue:\n  dequeue_interval_seconds: 1\n", "")
    assert "run_queue" not in yaml.safe_load(merge(mine, BEFORE, NOW))


def test_the_options_of_one_class_are_not_given_to_another() -> None:
    mine = BEFORE.replace(
        "  module: dagster\n  class: DefaultRunLauncher", "  module: dagster_k8s\n  class: K8sRunLauncher"
    )
    launcher = yaml.safe_load(merge(mine, BEFORE, NOW))["run_launcher"]
    assert launcher == {"module": "dagster_k8s", "class": "K8sRunLauncher"}


def test_another_kind_of_storage_stays_the_only_one() -> None:
    before = "storage:\n  custom:\n    module: a\n    class: B\n"
    now = "storage:\n  postgres:\n    postgres_url: c\n"
    mine = "storage:\n  mysql:\n    mysql_url: d\n"
    assert merge(mine, before, now) == mine


def test_a_file_with_other_indentation_keeps_it() -> None:
    mine = "run_queue:\n      dequeue_interval_seconds: 5\n"
    after = merge(mine, "run_queue:\n  dequeue_interval_seconds: 1\n", NOW)
    assert yaml.safe_load(after)["run_queue"] == {"dequeue_interval_seconds": 5, "dequeue_use_threads": True}
    assert after.startswith("run_queue:\n      dequeue_interval_seconds: 5\n      # Launches are parallel.\n")


def test_text_in_a_block_scalar_that_looks_like_a_comment_is_not_cut() -> None:
    mine = "run_queue:\n  note: |\n    # not a comment\n"
    after = merge(mine, "run_queue:\n  a: 1\n", "run_queue:\n  a: 1\n  b: 2\n")
    assert yaml.safe_load(after) == {"run_queue": {"note": "# not a comment\n", "b": 2}}


@pytest.mark.parametrize(
    "mine", ["", "# all mine\n", "run_queue: &a\n  dequeue_interval_seconds: 1\nx: *a\n"]
)
def test_an_empty_file_and_one_with_anchors_keep_what_they_have(mine: str) -> None:
    assert merge(mine, BEFORE, BEFORE) == mine
    assert merge(mine, BEFORE, NOW).startswith(mine)


def test_every_earlier_default_becomes_the_present_one() -> None:
    earlier = [path.read_text() for path in sorted(EARLIER.iterdir())]
    assert earlier
    for text in earlier:
        assert yaml.safe_load(merge(text, text, SHIPPED.read_text())) == yaml.safe_load(SHIPPED.read_text())


keys = st.sampled_from(["a", "b", "storage", "class"])
scalars = st.sampled_from([1, 2, True, "x", "y z", "#", None])
trees = st.dictionaries(
    keys,
    st.recursive(
        scalars | st.lists(scalars, max_size=2), lambda inner: st.dictionaries(keys, inner), max_leaves=6
    ),
)


@st.composite
def edits_of(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """Another version of a tree, which shares much of it."""
    edited = {}
    for key, value in tree.items():
        choice = draw(st.sampled_from(["keep", "keep", "inside", "change", "remove"]))
        if choice == "inside" and isinstance(value, dict):
            edited[key] = draw(edits_of(value))
        elif choice == "change":
            edited[key] = draw(scalars | st.dictionaries(keys, scalars, max_size=2))
        elif choice != "remove":
            edited[key] = value
    for key in draw(st.sets(keys, max_size=1)):
        edited.setdefault(key, draw(scalars | st.dictionaries(keys, scalars, max_size=2)))
    return edited


def model(mine: Any, old: Any, new: Any) -> Any:
    """The same rules on plain values."""
    kept = {}
    for key, value in mine.items():
        if key not in old:
            kept[key] = value
        elif key not in new:
            if value != old[key]:
                kept[key] = value
        elif all(isinstance(v, dict) and v for v in (value, old[key], new[key])):
            changed_class = any(value.get(name) != old[key].get(name) for name in IDENTITY)
            exchanged = key == SELECTOR and value.keys() != old[key].keys()
            kept[key] = value if changed_class or exchanged else model(value, old[key], new[key])
        else:
            kept[key] = new[key] if value == old[key] else value
    return kept | {key: value for key, value in new.items() if key not in old and key not in mine}


def typed(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=False) if value else ""


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_merge_of_texts_is_a_merge_of_values(data: st.DataObject) -> None:
    old = data.draw(trees)
    mine, new = data.draw(edits_of(old)), data.draw(edits_of(old))
    comment = data.draw(st.text(string.ascii_lowercase, min_size=1, max_size=5))
    text = "".join(f"# {comment}\n{line}\n" for line in typed(mine).splitlines()) if mine else typed(mine)
    after = merge(text, typed(old), typed(new))
    assert (yaml.safe_load(after) or {}) == model(mine, old, new)
    assert after.count(f"# {comment}") == text.count(f"# {comment}")
