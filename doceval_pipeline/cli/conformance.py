"""`doceval conformance`: does a processor keep its contract?"""

from dataclasses import asdict

import click
from rich.status import Status as Spinner

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.output import console, errors, print_json, print_table
from doceval_pipeline.conformance.cases import Trial
from doceval_pipeline.conformance.runner import run_trials
from doceval_pipeline.conformance.verdicts import judge
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings


@command(
    context_settings={"ignore_unknown_options": True},
    epilog=examples("doceval conformance -- python examples/processor/processor.py"),
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Seconds that each of the five trials may take.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
def conformance(*, command: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Test whether a processor keeps its contract.

    Runs COMMAND, which may have arguments. It gets a scratch database in
    KNOWLEDGE_DOCUMENTS_URL, and connections that point to a fake model on this machine. No LLM is called. The
    exit code is 0 only if the processor fulfils every requirement of the contract.
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
