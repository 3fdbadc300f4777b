"""The command `python -m benchmarks`, which is `make bench`."""

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.case import Case
from benchmarks.cases import CASES
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Measured
from benchmarks.harness import Measurement, run
from benchmarks.installation import installation
from benchmarks.machine import describe_machine
from benchmarks.publishing import RESULTS, number, publish
from benchmarks.results import case_result, write_result
from doceval_pipeline.errors import DocEvalError


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--quick", is_flag=True, help="Try the cases with tiny sizes and one round; publish nothing.")
@click.option("--rounds", type=click.IntRange(1), help="Runs of each side. Default: the case's own number.")
@click.option(
    "--below",
    type=click.Path(path_type=Path, exists=True),
    help="Folder in which to create the installation.",
)
@click.option(
    "--into", type=click.Path(path_type=Path), help="Write the results into this folder; publish nothing."
)
def main(
    *, cases: tuple[str, ...], quick: bool, rounds: int | None, below: Path | None, into: Path | None
) -> None:
    """Run the benchmark CASES, by default all of them.

    Results go to benchmarks/results, the table and the plot to docs. The exit code is 0 if every
    result is correct, however slow it is.
    """
    # SIGTERM must stop its servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for chosen in cases or tuple(CASES):
        case = CASES[chosen](quick=quick)
        started = time.monotonic()
        click.secho(f"case {case.name}: {case.work}  (yardstick: {case.yardstick})", bold=True)
        try:
            measured = run_case(case, rounds, below)
        except (BenchmarkError, DocEvalError) as error:
            click.secho(f"case {case.name}: {error}", fg="red", err=True)
            sys.exit(1)
        result = case_result(case, measured, describe_machine())
        for figure in result.figures:
            _say(figure)
        click.echo(f"  took {time.monotonic() - started:.0f} s")
        if into is not None or not quick:
            write_result(result, into or RESULTS)
    if into is None and not quick:
        publish()


def run_case(case: Case, rounds: int | None, below: Path | None = None) -> Measured:
    """Run all experiments of a case in a separate installation.

    Raises
    ------
    BenchmarkError
        A run failed, or its result is wrong.
    """
    with installation(below) as made:
        return {
            experiment.name: run(replace(experiment, rounds=rounds or experiment.rounds), made, _tell)
            for experiment in case.experiments
        }


def _tell(done: Measurement) -> None:
    click.echo(
        f"  {done.round + 1:3}  {done.side:36} {done.seconds:9.3f} s  server {done.server_cpu:7.2f} s CPU, "
        f"{done.server_bytes / 2**20:6.0f} MiB, {done.wal_bytes / 1e6:7.1f} MB WAL  "
        f"client {done.client_cpu:6.2f} s CPU, +{done.client_bytes / 2**20:.0f} MiB"
    )


def _say(figure: Figure) -> None:
    goal = (
        "" if figure.goal is None else f"  goal {'≥' if figure.more_is_better else '≤'} {number(figure.goal)}"
    )
    colour = {True: "green", False: "red", None: None}[figure.met]
    spread = f"[{number(figure.low)} to {number(figure.high)}]"
    click.secho(f"  {figure.name}: {number(figure.median)} {figure.unit} {spread}{goal}", fg=colour)


if __name__ == "__main__":
    main()
