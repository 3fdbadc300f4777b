"""The benchmarks measure what they say, and a wrong result ends them; how fast anything is, is not tested."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import staging
from benchmarks.__main__ import run_case
from benchmarks.cases import CASES
from benchmarks.child import Figures
from benchmarks.errors import BenchmarkError, WrongResult
from benchmarks.figures import Figure, quartiles, ratio, seconds
from benchmarks.harness import Experiment, Measurement, Side, run
from benchmarks.installation import Installation, installation
from benchmarks.machine import describe_machine
from benchmarks.publishing import BEGIN, DOCUMENT, END, RESULTS, render
from benchmarks.results import case_result, read_results, write_result
from doceval_pipeline_tests.benchmarks import work


@pytest.fixture(scope="module")
def made() -> Iterator[Installation]:
    with installation() as found:
        found.knowledge("CREATE TABLE counted (number int)")
        yield found


def nothing(_: Installation) -> None: ...


def require_rows(made: Installation, figures: Figures) -> None:
    ((count,),) = made.knowledge("SELECT count(*) FROM counted")
    if count != figures["rows"]:
        raise WrongResult(f"{count} rows of {figures['rows']}")


def empty(rows: int) -> Any:
    def before(made: Installation) -> dict[str, int]:
        made.knowledge("TRUNCATE counted")
        made.checkpoint()
        return {"rows": rows}

    return before


def test_every_side_runs_in_every_round_and_in_more_than_one_order(made: Installation) -> None:
    sides = [
        Side(name, work.write_rows, empty(rows), require_rows) for name, rows in (("few", 1), ("many", 9))
    ]
    told: list[Measurement] = []
    done = run(Experiment("rows", nothing, sides, 4), made, told.append)
    assert told == done
    orders = [tuple(m.side for m in done if m.round == number) for number in range(4)]
    assert {frozenset(order) for order in orders} == {frozenset({"few", "many"})}
    assert len(set(orders)) == 2


def test_a_run_tells_what_the_server_wrote_and_used(made: Installation) -> None:
    side = Side("rows", work.write_rows, empty(200_000), require_rows)
    (found,) = run(Experiment("rows", nothing, [side], 1), made, lambda _: None)
    assert found.wal_bytes > 200_000 * 20
    assert found.server_cpu > 0
    assert found.server_bytes > 1_000_000
    assert found.figures == {"rows": 200_000}


def test_memory_counts_above_what_the_process_held_before(made: Installation) -> None:
    side = Side("memory", work.hold_memory, lambda _: {"mib": 64}, lambda *_: None)
    (found,) = run(Experiment("memory", nothing, [side], 1), made, lambda _: None)
    assert 60 < found.client_bytes / 2**20 < 80


def test_a_wrong_result_ends_the_benchmark(made: Installation) -> None:
    side = Side("rows", work.write_rows, lambda _: {"rows": 5}, require_rows)
    made.knowledge("TRUNCATE counted")
    experiment = Experiment("rows", nothing, [side], 2)
    with pytest.raises(WrongResult, match="10 rows of 5"):
        run(experiment, made, lambda _: None)


def test_work_that_fails_ends_the_benchmark(made: Installation) -> None:
    side = Side("failing", work.fail, lambda _: {}, lambda *_: None)
    with pytest.raises(BenchmarkError, match="failing ended with code 1"):
        run(Experiment("failing", nothing, [side], 1), made, lambda _: None)


@pytest.mark.parametrize(
    "fault",
    [
        # The fault is planted between the run and its check.
        "UPDATE docs SET content = 'A' || substr(content, 2) WHERE id = (SELECT min(id) FROM docs)",
        "DELETE FROM llm_responses WHERE id = (SELECT min(id) FROM llm_responses)",
    ],
)
def test_a_stored_byte_or_row_that_is_not_as_it_must_be_ends_case_1(fault: str) -> None:
    case = CASES["1"](quick=True)
    (first, *_), check = case.experiments[0].sides, case.experiments[0].sides[0].check

    def damage(made: Installation, figures: Figures) -> None:
        made.knowledge(fault)
        check(made, figures)

    damaged = replace(case.experiments[0], sides=[replace(first, check=damage)])
    with pytest.raises(WrongResult):
        run_case(replace(case, experiments=[damaged]), 1)


# The others take a few seconds each; cases 8 and 13 start a daemon and wait for it, 14 installs packages.
QUICK = ("5",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in CASES
        if name not in ("8", "13", "14")
    ],
)
def test_a_case_runs_in_a_tiny_size_and_its_result_is_kept(name: str, tmp_path: Path) -> None:
    case = CASES[name](quick=True)
    result = case_result(case, run_case(case, 1), describe_machine())
    assert [figure for figure in result.figures if figure.goal is not None]
    assert result.rounds == 1
    write_result(result, tmp_path)
    assert read_results(tmp_path) == [result]


def test_ratios_are_taken_within_each_round() -> None:
    def measured(side: str, number: int, took: float) -> Measurement:
        return Measurement(side, number, took, 0, 0, 0, 0, 0, 0, 0, {})

    found = [measured("a", 0, 2), measured("b", 0, 1), measured("b", 1, 10), measured("a", 1, 20)]
    assert ratio("time", found, "a", "b", 2.0, seconds) == Figure("time", "×", 2, 2, 2, 2.0)
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)


def test_a_goal_is_met_from_the_side_it_says() -> None:
    assert Figure("f", "×", 0.8, 0, 0, goal=0.8).met
    assert not Figure("f", "×", 0.81, 0, 0, goal=0.8).met
    assert Figure("f", "×", 21, 0, 0, goal=20, more_is_better=True).met
    assert not Figure("f", "×", 19, 0, 0, goal=20, more_is_better=True).met
    assert Figure("f", "×", 1, 0, 0).met is None


def test_the_table_in_the_documentation_is_that_of_the_results() -> None:
    results = read_results(RESULTS)
    assert [result.case for result in results] == list(CASES)
    _, _, rest = DOCUMENT.read_text().partition(BEGIN)
    assert rest.partition(END)[0] == f"\n{render(results)}"


def test_results_name_no_path_of_the_machine() -> None:
    for path in RESULTS.glob("*.json"):
        assert "/tmp/" not in path.read_text()
        assert str(staging.material.__file__) not in path.read_text()
