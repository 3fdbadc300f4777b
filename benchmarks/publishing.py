"""Publishes results: the table in docs/performance.md, and its plot."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.harness import PROJECT
from benchmarks.results import CaseResult, read_results

RESULTS = PROJECT / "benchmarks" / "results"
DOCUMENT = PROJECT / "docs" / "performance.md"
PLOT = PROJECT / "docs" / "images" / "performance.svg"
BEGIN, END = "<!-- written by make bench -->", "<!-- end of what make bench writes -->"
_MET, _MISSED = "#2a78b5", "#d1602a"


def publish() -> None:
    """Rewrite the table and the plot from the committed results."""
    results = read_results(RESULTS)
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{render(results)}{END}{after}")
    draw(results, PLOT)


def render(results: Sequence[CaseResult]) -> str:
    """The machines and the table of all cases, as markdown."""
    lines = [_machine(results), "", "| # | work | beside | rounds | figure | median | quartiles | goal | |"]
    lines.append("|---:|---|---|---:|---|---:|---|---:|---|")
    for result in results:
        for position, figure in enumerate(result.figures):
            of_case = (result.case, result.work, result.yardstick, str(result.rounds))
            words = of_case if position == 0 else ("",) * len(of_case)
            lines.append(f"| {' | '.join([*words, *_row(figure)])} |")
    return "\n".join(lines) + "\n"


def draw(results: Sequence[CaseResult], target: Path) -> None:
    """Draw every figure that has a goal as a share of it, with its quartiles, on a logarithmic scale."""
    # Takes half a second to import; measuring does not need it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    shown = [(result.case, figure) for result in results for figure in result.figures if figure.of_goal]
    # The same figures give the same file.
    with rc_context({"svg.hashsalt": "doceval", "font.size": 9}):
        canvas = Canvas(figsize=(8, 0.6 + 0.24 * len(shown)), layout="constrained")
        axes = canvas.subplots()
        for at, (_, figure) in enumerate(shown):
            low, middle, high = _shares(figure)
            colour = _MET if figure.met else _MISSED
            axes.plot([low, high], [at, at], color=colour, linewidth=2)
            axes.plot([middle], [at], "o", color=colour)
        axes.axvline(1, color="#808890", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel("share of the goal (left of the line it is met); dot: median, bar: quartiles")
        axes.set_yticks(range(len(shown)), [f"{case}  {figure.name}" for case, figure in shown])
        axes.invert_yaxis()
        target.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(target, format="svg", metadata={"Date": None})


def _machine(results: Sequence[CaseResult]) -> str:
    """The machines in one sentence each, with the cases that were measured on them."""
    by_machine: dict[str, list[str]] = {}
    for result in results:
        words = ", ".join(f"{name} {value}" for name, value in result.machine.items())
        by_machine.setdefault(f"{words}; {result.taken_at}", []).append(result.case)
    return "\n".join(
        f"{'Case' if len(cases) == 1 else 'Cases'} {', '.join(cases)}: {words}."
        for words, cases in by_machine.items()
    )


def _row(figure: Figure) -> list[str]:
    goal, verdict = "", ""
    if figure.goal is not None:
        goal = f"{'≥' if figure.more_is_better else '≤'} {number(figure.goal)}"
        verdict = "met" if figure.met else "**missed**"
    spread = f"{number(figure.low)} to {number(figure.high)}"
    return [figure.name, f"{number(figure.median)} {figure.unit}", spread, goal, verdict]


def number(value: float) -> str:
    """A number with about three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _shares(figure: Figure) -> tuple[float, float, float]:
    goal = figure.goal or 1.0
    shares = (figure.low / goal, figure.median / goal, figure.high / goal)
    # A logarithmic scale has no zero.
    low, middle, high = (max(share, 0.001) for share in shares)
    return (1 / high, 1 / middle, 1 / low) if figure.more_is_better else (low, middle, high)
