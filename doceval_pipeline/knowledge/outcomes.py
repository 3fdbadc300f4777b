"""SQL over `llm_responses.status` and the columns beside it, made from the status words of `domain`."""

from doceval_pipeline.domain.evaluations import WORDS, Outcome


def words_in_sql(outcome: Outcome) -> str:
    """The words of an outcome as a list of SQL constants."""
    return ", ".join(f"'{word}'" for word in WORDS[outcome])


def outcome_sql(status: str = "status") -> str:
    """An SQL expression: the outcome of a row.

    Parameters
    ----------
    status
        The column, with the alias of its table if a statement needs one.
    """
    # The most frequent first: it saves an eighth of a pass over finished rows.
    order = sorted(WORDS, key=lambda outcome: outcome not in (Outcome.SUCCEEDED, Outcome.FAILED))
    cases = (f"WHEN {status} IN ({words_in_sql(outcome)}) THEN '{outcome}'" for outcome in order)
    return f"CASE {' '.join(cases)} ELSE '{Outcome.UNKNOWN}' END"


def has_outcome_sql(*outcomes: Outcome, status: str = "status") -> str:
    """An SQL condition: a row has one of the outcomes; `status` as in `outcome_sql`."""
    return f"{status} IN ({', '.join(map(words_in_sql, outcomes))})"


def valid_score_sql(row: str = "") -> str:
    """An SQL expression: the score of a succeeded row, NULL for impossible scores, NaN among them.

    Parameters
    ----------
    row
        The alias of the row with a dot, if a statement needs one.
    """
    succeeded = has_outcome_sql(Outcome.SUCCEEDED, status=f"{row}status")
    score = f"{row}overall_score"
    return f"CASE WHEN {succeeded} AND {score} BETWEEN 0 AND 100 THEN {score} END"


# An SQL condition: the result of a row was simulated by the demo's processor.
SIMULATED_SQL = "coalesce(starts_with(coalesce(worker, task_id), 'simulated-'), false)"
