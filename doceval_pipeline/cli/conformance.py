"""`doceval conformance`: does a processor keep its contract?"""

from dataclasses import asdict

import click
from rich.status import Status as Spinner

from doceval_pipeline.cli.output import console, errors, print_json, print_table
from doceval_pipeline.conformance.cases import Trial
from doceval_pipeline.conformance.runner import run_trials
from doceval_pipeline.conformance.verdicts import judge
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Seconds that each of the five trials may take.",
)
@click.option("--json", "as_json", is_flag=True, help="Print data for other programs.")
def conformance(command: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Try a processor: doceval conformance -- COMMAND AND ITS ARGUMENTS.

    It gets a scratch database in KNOWLEDGE_DOCUMENTS_URL, and connections that point to a model on
    loopback. No LLM is called. Exit code 0 only if it keeps all that the contract requires.
    """
    server = EmbeddedServer(Settings.from_environment().home)
    with Spinner("", console=errors) as spinner:

        def tell(trial: Trial) -> None:
            spinner.update(f"trial {trial}")

        lines = judge(run_trials(command, server, timeout, tell))
    broken = [line for line in lines if line.breaks]
    if as_json:
        print_json({"conforms": not broken, "lines": [asdict(line) for line in lines]})
    else:
        rows = [(line.what, "yes" if line.required else "no", line.verdict, line.seen) for line in lines]
        print_table(("what was tried", "required", "result", "what was seen"), rows)
        kept_not = "1 required line is" if len(broken) == 1 else f"{len(broken)} required lines are"
        console.print(f"\n{kept_not} not kept" if broken else "\nit keeps the contract")
    if broken:
        raise SystemExit(1)


COMMANDS = (conformance,)
