"""Checks a commit message: a subject of at most 72 characters, an empty line, and a body that says why.

Run by pre-commit as `python -m doceval_pipeline_tests.commit_message FILE`.
"""

import sys
from pathlib import Path

LONGEST_SUBJECT = 72
# Messages that git writes itself.
_GENERATED = ("Merge ", "Revert ", "fixup! ", "squash! ")


def problem_of(message: str) -> str | None:
    """What is wrong with a commit message and how to fix it, or None."""
    lines = [line.rstrip() for line in message.splitlines() if not line.startswith("#")]
    subject, rest = (lines[0], lines[1:]) if lines else ("", [])
    if not subject:
        return "the first line is empty: write a subject of at most 72 characters"
    if subject.startswith(_GENERATED):
        return None
    if len(subject) > LONGEST_SUBJECT:
        return f"the subject has {len(subject)} characters: shorten it to {LONGEST_SUBJECT}"
    if rest and rest[0]:
        return "the second line is not empty: separate the subject from the body"
    if not any(rest):
        return "the body is missing: say why the change is made"
    return None


def main() -> int:
    """Check the file that git names; 1 and one line where its message must change."""
    problem = problem_of(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if problem is not None:
        print(f"commit message: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
