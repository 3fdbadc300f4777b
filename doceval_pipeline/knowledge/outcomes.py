"""The words that `llm_responses.status` may hold, and what each of them means.

Processors of several generations write here, so every word is normalized on reading. A word that
is not listed is not done, and is shown as unknown.
"""

from enum import StrEnum


class Outcome(StrEnum):
    """What a status word means."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


WORDS: dict[Outcome, tuple[str, ...]] = {
    Outcome.WAITING: ("QUEUED", "N", "READY_TO_RETRY"),
    Outcome.RUNNING: ("P", "PROCESSING", "R"),
    Outcome.PAUSED: ("PAUSED",),
    Outcome.SUCCEEDED: ("S", "SUCCESS", "COMPLETED"),
    Outcome.FAILED: ("F", "FAILED", "TIMEOUT"),
}


def words_in_sql(outcome: Outcome) -> str:
    """The words of an outcome as a list of SQL constants."""
    return ", ".join(f"'{word}'" for word in WORDS[outcome])


# An SQL expression over the column `status`, from the same table.
OUTCOME_SQL = (
    "CASE "
    + " ".join(f"WHEN status IN ({words_in_sql(outcome)}) THEN '{outcome}'" for outcome in WORDS)
    + f" ELSE '{Outcome.UNKNOWN}' END"
)

# An SQL condition over a row of the same table: its result is made up by the processor of the demo.
SIMULATED_SQL = "coalesce(starts_with(coalesce(worker, task_id), 'simulated-'), false)"
