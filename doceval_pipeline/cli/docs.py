"""The command that shows the pages of documentation, which the wheel carries too."""

from pathlib import Path

import click

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.errors import FileError

# In a checkout links to the pages; a wheel has copies.
PAGES = Path(__file__).parent.parent / "documentation"


@command(epilog=examples("doceval docs", "doceval docs operations"))
@click.argument("page", required=False)
def docs(page: str | None) -> None:
    """List pages of documentation, or show one.

    PAGE is the name of a page with or without folder and `.md`, such as operations or docs/operations.md.
    """
    pages = {path.stem.lower(): path for path in sorted(PAGES.glob("*.md"))}
    if page is None:
        width = max(map(len, pages))
        for name, listed in pages.items():
            click.echo(f"{name:{width}}  {_title(listed)}")
        click.echo("next: doceval docs PAGE")
        return
    path = pages.get(page.partition("#")[0].rpartition("/")[2].lower().removesuffix(".md"))
    if path is None:
        raise FileError(f"page {page[:80]!r} does not exist: doceval docs lists all pages")
    click.echo_via_pager(path.read_text(encoding="utf-8").removesuffix("\n"))


def _title(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")
