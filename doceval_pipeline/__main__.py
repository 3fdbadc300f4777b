"""The program `doceval`, and `python -m doceval_pipeline`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it with 130 even while it is being imported."""
    try:
        from doceval_pipeline.cli import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
