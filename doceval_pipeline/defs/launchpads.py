"""The initial content of each job's launchpad: a valid example with comments.

Dagster creates the initial content of a launchpad from plain values, without comments. The webserver of
`doceval up` shows the texts of this module instead if they have the same values; Dagster's own webserver
shows the values without comments.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import yaml

if TYPE_CHECKING:
    from graphql import GraphQLObjectType, GraphQLSchema

_CHOOSE = "# Choose a partition above: the batch."
# Lines are short enough for the editor in a window of common width.
EXAMPLES = {
    "create_batch": """\
# Creates a batch with its connections and prompts.
# Change the names and folders, then launch. Nothing is written unless everything is valid.
ops:
  create:
    config:
      name: my-batch           # unique; an unstaged batch of this name is updated
      folders:                 # absolute paths where Dagster runs, or s3://BUCKET/PREFIX/
        - /path/to/documents
      connections: [my-model]  # from new_connections below, or existing ones
      prompts: [clarity]       # from new_prompts below, or existing ones
      new_connections:         # created, or updated by name; [] if all exist
        - name: my-model
          provider: openai
          model: gpt-4o
          base_url: https://api.openai.com/v1
          # The NAME of the environment variable with the API key. Never the key itself.
          api_key_env: OPENAI_API_KEY
          # Dagster reads YAML 1.1: quote 'No', 'on' and '22:30', write 0.1 for 1e-1.
          config: {temperature: 0}
      new_prompts:             # created, or updated by name; [] if all exist
        - name: clarity
          text: Score from 0 to 100 how clear this document is.
          # threshold: 60        # reports list documents that score lower
          # weight: 2            # share in the overall ranking; needs two prompts with one
      include: []              # .gitignore patterns such as '*.pdf'; [] includes all
      exclude: []              # .gitignore patterns of files to skip
      description: ''
      metadata: {}             # any JSON to store with it, such as {owner: legal}
      priority: 10             # 1 to 100: share of processing time
      reuse: nothing           # finished: reuse results of earlier batches
      # margin: 3              # points: which cheaper models are no worse than the leader?
      stage: false             # true: stage the batch immediately
""",
    "stage_batch": f"""\
# Stages a batch, or completes an incomplete staging.
{_CHOOSE}
ops:
  document_assignment:
    config:
      rescan: false          # true: rescan the folders of a staged batch
  encoded_documents_documents_round_trip:
    config:
      documents: 50          # number of stored documents to verify
      every_document: false  # true: verify all of them, which takes longer
  queue_rows:
    config:
      mode: missing          # missing | failed | all: evaluations that get a new attempt
""",
    "reprocess_batch": f"""\
# Repairs a batch and queues new attempts. Earlier attempts are kept.
{_CHOOSE}
ops:
  reprocess_cells:
    config:
      # missing: only repair. failed: also repeat failed evaluations. all: repeat all.
      mode: missing
      rescan: false   # true: rescan the folders first
      dry_run: false  # true: only log what would be done and what it would cost
""",
    "archive_batch": f"""\
# Moves a closed batch from both databases into one file. doceval restore restores it.
{_CHOOSE} No config is needed.
{{}}
""",
    "report_batch": f"""\
# Writes the completion report of a batch from its current results.
{_CHOOSE} No config is needed.
{{}}
""",
    "pause_batch": f"""\
# Holds the waiting evaluations of a batch. Running evaluations may finish.
{_CHOOSE} No config is needed.
{{}}
""",
    "resume_batch": f"""\
# Returns the held evaluations of a paused batch to the queue.
{_CHOOSE} No config is needed.
{{}}
""",
    "cancel_batch": f"""\
# Cancels the waiting evaluations of a batch. It can be reprocessed later.
{_CHOOSE} No config is needed.
{{}}
""",
    "run_recurring": """\
# Creates a batch of a recurring evaluation now, outside its schedule.
ops:
  make_batch:
    config:
      name: my-recurring-evaluation  # a name from doceval recurring list
""",
    "pause_recurring": """\
# Pauses a recurring evaluation: no batches are created until it is resumed.
ops:
  pause:
    config:
      name: my-recurring-evaluation  # a name from doceval recurring list
""",
    "resume_recurring": """\
# Resumes a paused recurring evaluation. Missed occurrences are not made up.
ops:
  resume:
    config:
      name: my-recurring-evaluation  # a name from doceval recurring list
""",
    "delete_recurring": """\
# Deletes a recurring evaluation and its history. The batches that it created are kept.
ops:
  delete:
    config:
      name: my-recurring-evaluation  # a name from doceval recurring list
""",
    "refresh_leaderboard": """\
# Computes the leaderboard over all completed batches. No config is needed.
{}
""",
    "refresh_series": """\
# Writes the series page of a recurring evaluation; without name, the pages of all.
ops:
  series:
    config:
      name: my-recurring-evaluation  # a name from doceval recurring list
""",
    "audit_databases": """\
# Checks both databases for consistency and changes nothing. No config is needed.
{}
""",
    "retention": """\
# Deletes log entries, completed requests and most samples older than DOCEVAL_KEEP_DAYS.
# No config is needed.
{}
""",
}


def example_values(job: str) -> dict[str, Any]:
    """The example of a job as plain values, for the definition of the job."""
    values: dict[str, Any] = yaml.safe_load(EXAMPLES[job])
    return values


def with_comments(job: str, plain: str) -> str:
    """The example of a job if it has the values that Dagster would show; otherwise Dagster's text."""
    example = EXAMPLES.get(job)
    if example is None or yaml.safe_load(example) != yaml.safe_load(plain):
        return plain
    return example


def show_examples(schema: "GraphQLSchema") -> None:
    """Make Dagster's GraphQL schema return the examples as the initial content of launchpads.

    Dagster has no setting for this; a test in a browser detects changes in updates.
    """
    for type_name, field_name, job_of in (
        ("PipelinePreset", "runConfigYaml", lambda preset: preset._job_name),
        ("RunConfigSchema", "rootDefaultYaml", lambda run_config: run_config._represented_job.name),
    ):
        field = cast("GraphQLObjectType", schema.type_map[type_name]).fields[field_name]
        field.resolve = _commented(field.resolve, job_of)


def _commented(resolve: Any, job_of: Callable[[Any], str]) -> Callable[..., str]:
    def answer(root: Any, info: Any, **arguments: Any) -> str:
        return with_comments(job_of(root), resolve(root, info, **arguments))

    return answer
