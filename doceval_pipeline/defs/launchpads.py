"""What the launchpad of each job opens with: a valid example, with comments.

Dagster writes the first content of a launchpad from plain values, so that comments are lost on the way. The
webserver of `doceval up` shows the texts from here instead, where they mean the same; Dagster's own shows the
same values without comments.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import yaml

if TYPE_CHECKING:
    from graphql import GraphQLObjectType, GraphQLSchema

_CHOOSE = "# Choose a partition above: that is the batch."
# Lines are as long as the editor of a common window shows.
EXAMPLES = {
    "create_batch": """\
# Creates a batch, with the connections and prompts that it uses.
# Change the names and folders, then launch. Nothing is written unless all of it is right.
ops:
  create:
    config:
      name: my-batch           # unique; updates a batch of this name that is not staged
      folders:                 # absolute paths on the machine that runs Dagster
        - /path/to/documents
      connections: [my-model]  # names, from new_connections below or created earlier
      prompts: [clarity]       # names, from new_prompts below or created earlier
      new_connections:         # created, or updated by name; [] where all exist
        - name: my-model
          provider: openai
          model: gpt-4o
          base_url: https://api.openai.com/v1
          # The NAME of the variable from which the processor reads its key. Never a key.
          api_key_env: OPENAI_API_KEY
          # Dagster reads YAML 1.1: quote 'No', 'on' and '22:30', write 0.1 for 1e-1.
          config: {temperature: 0}
      new_prompts:             # created, or updated by name; [] where all exist
        - name: clarity
          text: Score from 0 to 100 how clear this document is.
      include: []              # patterns as in .gitignore, such as '*.pdf'; [] takes all
      exclude: []              # patterns of files to leave out
      description: ''
      metadata: {}             # anything to keep with the batch, such as {owner: legal}
      priority: 10             # 1 to 100: share of the processors' work
      reuse: nothing           # finished takes results that earlier batches have
      stage: false             # true stages the batch at once
""",
    "stage_batch": f"""\
# Stages a batch, or repairs what is missing of its staging.
{_CHOOSE}
ops:
  document_assignment:
    config:
      rescan: false          # true looks at the folders of a staged batch again
  encoded_documents_documents_round_trip:
    config:
      documents: 50          # stored documents that the check decodes and compares
      every_document: false  # true compares all of them, which takes longer
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
      # missing only repairs. failed also repeats failed evaluations, all also the others.
      mode: missing
      rescan: false   # true looks at the folders again first
      dry_run: false  # true only shows what would be done, and what it would cost
""",
    "archive_batch": f"""\
# Moves a closed batch out of both databases into one file. doceval restore brings it back.
{_CHOOSE} No config is needed.
{{}}
""",
    "report_batch": f"""\
# Writes the completion report of a batch as it is now.
{_CHOOSE} No config is needed.
{{}}
""",
    "pause_batch": f"""\
# Holds the evaluations of a batch that wait. Those that run may finish.
{_CHOOSE} No config is needed.
{{}}
""",
    "resume_batch": f"""\
# Releases the evaluations of a paused batch.
{_CHOOSE} No config is needed.
{{}}
""",
    "cancel_batch": f"""\
# Closes the evaluations of a batch that wait. It can be reprocessed later.
{_CHOOSE} No config is needed.
{{}}
""",
    "run_recurring": """\
# Makes the batch of a recurring evaluation now, outside its schedule.
ops:
  make_batch:
    config:
      name: my-recurring-evaluation  # as doceval recurring list shows it
""",
    "pause_recurring": """\
# Pauses a recurring evaluation: no batch is made until it is resumed.
ops:
  pause:
    config:
      name: my-recurring-evaluation  # as doceval recurring list shows it
""",
    "resume_recurring": """\
# Resumes a paused recurring evaluation. Times that have passed are not made up.
ops:
  resume:
    config:
      name: my-recurring-evaluation  # as doceval recurring list shows it
""",
    "delete_recurring": """\
# Deletes a recurring evaluation and the record of its times. The batches that it made stay.
ops:
  delete:
    config:
      name: my-recurring-evaluation  # as doceval recurring list shows it
""",
    "refresh_leaderboard": """\
# Computes the leaderboard over all completed batches. No config is needed.
{}
""",
    "refresh_series": """\
# Writes the page of a recurring evaluation's series; without name, the pages of all.
ops:
  series:
    config:
      name: my-recurring-evaluation  # as doceval recurring list shows it
""",
    "audit_databases": """\
# Checks both databases for consistency and changes nothing. No config is needed.
{}
""",
    "retention": """\
# Removes log lines, fulfilled requests and most samples older than DOCEVAL_KEEP_DAYS.
# No config is needed.
{}
""",
}


def example_values(job: str) -> dict[str, Any]:
    """The example of a job as plain values, for the job's own definition."""
    values: dict[str, Any] = yaml.safe_load(EXAMPLES[job])
    return values


def with_comments(job: str, plain: str) -> str:
    """The example of a job, where it means the same as what Dagster would show; that otherwise."""
    example = EXAMPLES.get(job)
    if example is None or yaml.safe_load(example) != yaml.safe_load(plain):
        return plain
    return example


def show_examples(schema: "GraphQLSchema") -> None:
    """Let Dagster's schema answer with the examples where a page asks for the first content of a launchpad.

    Dagster has no setting for it; a test in a browser sees what an update changes here.
    """
    for type_name, field_name, job_of in (
        ("PipelinePreset", "runConfigYaml", lambda preset: preset._job_name),
        ("RunConfigSchema", "rootDefaultYaml", lambda found: found._represented_job.name),
    ):
        field = cast("GraphQLObjectType", schema.type_map[type_name]).fields[field_name]
        field.resolve = _commented(field.resolve, job_of)


def _commented(resolve: Any, job_of: Callable[[Any], str]) -> Callable[..., str]:
    def answer(found: Any, info: Any, **arguments: Any) -> str:
        return with_comments(job_of(found), resolve(found, info, **arguments))

    return answer
