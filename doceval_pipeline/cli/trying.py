"""`doceval try`: evaluates a small random sample of a batch, and shows what the whole would take."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from doceval_pipeline.batches.staging.sample_size import LARGEST_SEED, note_on_sample
from doceval_pipeline.cli.bars import bars
from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, fail, print_json, print_table, warn
from doceval_pipeline.cli.plan import print_estimate
from doceval_pipeline.cli.status import SECONDS_BETWEEN_POLLS, follow, is_over
from doceval_pipeline.errors import BatchStateError, StagingError
from doceval_pipeline.names import printable
from doceval_pipeline.reports.formatting import amount, counted, duration, money, score_text

if TYPE_CHECKING:
    from doceval_pipeline.batches.databases import Databases
    from doceval_pipeline.batches.monitoring.status import BatchProgress
    from doceval_pipeline.batches.results.trial_results import ColumnResult
    from doceval_pipeline.batches.staging.trying import Trial, WholeEstimate
    from doceval_pipeline.doc_eval.batches import BatchRecord

DOCUMENTS = 5
MOST_DOCUMENTS = 1_000
# A processor that runs usually takes a row within seconds.
SECONDS_TO_TAKE_ROWS = 20


@command(
    "try", epilog=examples("doceval try 1", "doceval try 1 --documents 10 --seed 7", "doceval try 2 --show")
)
@click.argument("batch")
@click.option(
    "--documents",
    type=click.IntRange(1, MOST_DOCUMENTS),
    help=f"How many documents to draw; {DOCUMENTS} if omitted.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    help="Draw the sample of an earlier try again. If omitted, a seed is chosen and printed.",
)
@click.option(
    "--show", "shows", is_flag=True, help="BATCH is a sample: wait for its results, and show them again."
)
@as_json_option
def try_command(*, batch: str, documents: int | None, seed: int | None, shows: bool, as_json: bool) -> None:
    """Evaluate a small random sample of a batch.

    Makes a batch of a few documents of BATCH (a number or a name), stages it, waits for its results, and
    shows them beside the estimate for all documents. BATCH itself is not changed. The models are called for
    the sample only; it remains a batch like any other.
    """
    from doceval_pipeline.doc_eval.batches import find_batch

    if shows and (documents is not None or seed is not None):
        raise click.UsageError("--show shows a sample that exists: leave out --documents and --seed")
    opened = databases()
    found = find_batch(opened.doc_eval, batch)
    if shows:
        _show(opened, found, _trial_of(found), as_json=as_json)
    else:
        _try(opened, found, documents or DOCUMENTS, seed, as_json=as_json)


def _trial_of(batch: "BatchRecord") -> "Trial":
    from doceval_pipeline.batches.staging.trying import Trial

    trial = Trial.of(batch)
    if trial is None:
        raise BatchStateError(
            f"{batch.key} is not a sample: doceval try {batch.id} without --show draws one from it"
        )
    return trial


def _try(
    opened: "Databases", source: "BatchRecord", documents: int, seed: int | None, *, as_json: bool
) -> None:
    """Make the batch of a sample, stage it, and show its results."""
    from doceval_pipeline.batches.staging.trying import make_trial
    from doceval_pipeline.doc_eval.batches import find_batch

    # Dagster takes half a second to import.
    with importing():
        from doceval_pipeline.cli.runs import open_job

    with bars(visible=not as_json) as new_bar:
        made = make_trial(opened, source, documents, seed, new_bar("drawing documents"))
    trial = find_batch(opened.doc_eval, str(made.batch_id))
    if not as_json:
        console.print(
            f"{trial.key} {printable(trial.name)}: a random sample of {source.key}, seed {made.trial.seed}",
            markup=False,
        )
    for note in made.notes:
        warn(note)
    try:
        with open_job("stage_batch", [trial.id], quiet=as_json) as run:
            run(trial.id)
    except KeyboardInterrupt:
        _say_how_to_continue(trial)
        raise SystemExit(130) from None
    _show(opened, trial, made.trial, as_json=as_json)


def _say_how_to_continue(batch: "BatchRecord") -> None:
    fail(
        f"interrupted; {batch.key} goes on without this command: doceval status {batch.id} --watch follows "
        f"it, doceval try {batch.id} --show shows its results"
    )


def _show(opened: "Databases", batch: "BatchRecord", trial: "Trial", *, as_json: bool) -> None:
    """Wait for the results of a sample, and show them.

    Raises
    ------
    StagingError
        Its documents could not be staged.
    BatchStateError
        It is held, and waits for a person.
    """
    from doceval_pipeline.batches.results.trial_results import read_trial_results
    from doceval_pipeline.doc_eval.lifecycle import Status

    try:
        progress = _Waiting(opened, batch.id).wait(quiet=as_json)
    except KeyboardInterrupt:
        _say_how_to_continue(batch)
        raise SystemExit(130) from None
    ended = progress.batch
    if ended.status is Status.FAILED_STAGING:
        raise StagingError(f"{ended.key} could not be staged: {ended.failure_reason}")
    results = read_trial_results(opened, ended.id)
    whole, notes = _whole(opened, trial)
    documents = progress.documents.distinct
    connections = len({result.connection for result in results})
    on_sample = note_on_sample(documents, connections, ended.margin)
    shown = _Shown(ended, trial, documents, results, whole, [*notes, *([on_sample] if on_sample else [])])
    if as_json:
        print_json(shown.as_json())
    else:
        _print(shown)
    if ended.status is Status.FAILED:
        raise BatchStateError(f"{ended.key} is FAILED: {ended.failure_reason}")


def _whole(opened: "Databases", trial: "Trial") -> "tuple[WholeEstimate | None, list[str]]":
    """The estimate for all documents, or a note on why there is none."""
    from doceval_pipeline.batches.staging.trying import estimate_whole

    try:
        whole = estimate_whole(opened, trial)
    except StagingError as error:
        return None, [f"no estimate for all documents: {error}"]
    return whole, [] if whole else ["no estimate for all documents: their batch is archived, or not here"]


class _Waiting:
    """Waits until every evaluation of a batch is done, and completes the batch where no daemon does."""

    def __init__(self, opened: "Databases", batch_id: int) -> None:
        self._opened = opened
        self._batch_id = batch_id
        self._began = time.monotonic()
        self._warned = False

    def wait(self, *, quiet: bool) -> "BatchProgress":
        """The batch when it is done. Unless `quiet`, its progress is shown meanwhile."""
        if quiet:
            while not is_over(self._read()):
                time.sleep(SECONDS_BETWEEN_POLLS)
        else:
            follow(lambda: [self._read()])
        return self._read()

    def _read(self) -> "BatchProgress":
        from doceval_pipeline.batches.monitoring.status import progress_of
        from doceval_pipeline.batches.staging.trying import complete_trial
        from doceval_pipeline.doc_eval.batches import find_batch

        batch = complete_trial(self._opened, find_batch(self._opened.doc_eval, str(self._batch_id)))
        (progress,) = progress_of(self._opened, [batch])
        if batch.held_notice is not None:
            raise BatchStateError(f"{batch.key} is {batch.held_notice}; then doceval try {batch.id} --show")
        if not self._warned and (problem := self._problem(progress)):
            self._warned = True
            warn(f"{batch.key}: {problem}")
        return progress

    def _problem(self, progress: "BatchProgress") -> str | None:
        """Why the batch does not progress; None if it does."""
        from doceval_pipeline.batches.monitoring.stalls import STALLED

        assessment, cells = progress.assessment, progress.cells
        if assessment is not None and assessment.state in STALLED:
            return f"{assessment.state.label}: {assessment.sentence}"
        waited = time.monotonic() - self._began
        is_untouched = cells.waiting and not cells.running and cells.done == cells.reused
        if is_untouched and waited > SECONDS_TO_TAKE_ROWS:
            return (
                f"no processor has taken a row for {waited:.0f} s: start yours, or doceval "
                "simulate-processor for made-up results"
            )
        return None


@dataclass(frozen=True)
class _Shown:
    """What the command shows of a sample; `documents` were evaluated."""

    batch: "BatchRecord"
    trial: "Trial"
    documents: int
    results: "list[ColumnResult]"
    whole: "WholeEstimate | None"
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval try --json` prints."""
        return {
            "batch": self.batch.id,
            "name": self.batch.name,
            "partition": self.batch.key,
            "status": self.batch.status.value,
            "sample_of": {"batch": self.trial.batch, "name": self.trial.name},
            "seed": self.trial.seed,
            "documents": self.documents,
            "documents_requested": self.trial.documents,
            "files_found": self.trial.files_found,
            "results": [result.as_json() for result in self.results],
            "whole": None if self.whole is None else self.whole.as_json(),
            "notes": self.notes,
        }


def _print(shown: _Shown) -> None:
    drawn = counted(shown.documents, "document", "documents")
    found = counted(shown.trial.files_found, "file", "files")
    console.print(
        f"\n{drawn} of {found} of {printable(shown.trial.name)}, seed {shown.trial.seed}", markup=False
    )
    several = ("prompt", "connection")
    print_table(
        (
            *several,
            "documents",
            "mean score",
            "failed",
            "median time",
            "tokens in",
            "tokens out",
            "cost each",
        ),
        [_row(result) for result in shown.results],
    )
    if any(result.simulated for result in shown.results):
        warn("results are simulated: no model was called")
    if shown.whole is not None:
        _print_whole(shown.whole)
    for note in shown.notes:
        warn(note)


def _row(result: "ColumnResult") -> tuple[Any, ...]:
    from doceval_pipeline.batches.results.trial_results import mean_of

    usage = result.usage
    tokens_in, tokens_out = mean_of(usage.input_tokens), mean_of(usage.output_tokens)
    return (
        result.prompt,
        result.connection,
        result.scored,
        None if result.mean is None else score_text(result.mean),
        result.cells.failed,
        None if usage.seconds is None else duration(usage.seconds.p50),
        None if tokens_in is None else amount(tokens_in),
        None if tokens_out is None else amount(tokens_out),
        None if usage.cost is None else f"{money(usage.cost.per_document)} {usage.cost.currency}",
    )


def _print_whole(whole: "WholeEstimate") -> None:
    """Print the estimate for all documents, and what to do next."""
    from doceval_pipeline.doc_eval.lifecycle import Status

    documents = (
        counted(whole.documents, "usable file", "usable files")
        if whole.counts_files
        else counted(whole.documents, "document", "documents")
    )
    console.print(
        f"\nall of {whole.batch.key} {printable(whole.batch.name)}: {documents}, "
        f"{counted(whole.evaluations, 'evaluation', 'evaluations')}",
        markup=False,
    )
    for estimate in whole.estimates:
        print_estimate(estimate)
    if whole.batch.status is Status.SAVED:
        console.print(f"next: [bold]doceval stage {whole.batch.id}[/]")
