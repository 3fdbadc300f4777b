"""`doceval conformance`: checks a processor against its contract."""

import click
from rich.status import Status as Spinner

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.output import console, errors, print_json, print_table
from doceval_pipeline.conformance.cases import Scenario
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
    help="Time limit of each of the five scenarios, in seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
def conformance(*, command: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Test whether a processor keeps its contract.

    Runs COMMAND, which may have arguments. It gets a scratch database in
    KNOWLEDGE_DOCUMENTS_URL, and connections that point to a fake model on this machine. No LLM is called. The
    exit code is 0 only if the processor fulfils every requirement of the contract.
    """
    from doceval_pipeline.conformance.runner import run_scenarios
    from doceval_pipeline.conformance.verdicts import evaluate
    from doceval_pipeline.embedded.server import EmbeddedServer

    server = EmbeddedServer(Settings.from_environment().home)
    with Spinner("", console=errors) as spinner:

        def show(scenario: Scenario) -> None:
            spinner.update(f"scenario {scenario}")

        checks = evaluate(run_scenarios(command, server, timeout, show))
    failed = [check for check in checks if check.violates]
    if as_json:
        print_json({"conforms": not failed, "lines": [check.as_json() for check in checks]})
    else:
        rows = [(c.behaviour, "yes" if c.is_required else "no", c.verdict, c.observation) for c in checks]
        print_table(("check", "required", "result", "observation"), rows)
        number = "1 required check" if len(failed) == 1 else f"{len(failed)} required checks"
        console.print(f"\n{number} failed" if failed else "\nthe processor conforms to the contract")
    if failed:
        raise SystemExit(1)
