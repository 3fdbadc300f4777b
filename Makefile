.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup hooks demo up test test-fast coverage test-browser test-outsiders screenshots test-slow test-slow-recurring test-faults test-simulations bench check format lock clean

help:  ## list these targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## install everything into .venv from the lock file; write .env for plain Dagster commands
	@$(BIN)/python -m doceval_pipeline.dagster_home

# The stamp is newer than what it was made from, so a second run does nothing.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "doceval needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is " + sys.version.split()[0] + ": run make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m doceval_pipeline.dagster_home
	@touch $@

hooks: $(STAMP)  ## install git hooks that run the checks before each commit
	@$(BIN)/pre-commit install --hook-type pre-commit --hook-type commit-msg

demo: $(STAMP)  ## evaluate sample documents with a simulated processor and open the completion report
	@$(BIN)/doceval demo

up: $(STAMP)  ## run the database server, Dagster's webserver and its daemon until Ctrl-C
	@$(BIN)/doceval up

# Files run in their own order. The default order, by number of tests, would run the slowest file last and alone.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## run the tests on a real PostgreSQL and a real Dagster instance, two files at a time
	@$(PYTEST) $(COVERAGE)

test-fast: $(STAMP)  ## run the tests that need no server, in under a minute, before each commit
	@$(PYTEST) -m fast

coverage: $(STAMP)  ## run the tests and list the lines and branches that they miss; fails below the floor
	@$(PYTEST) --cov --cov-report=term

test-browser: $(STAMP)  ## run the tests that drive Dagster's UI and the report in Chromium
	@$(BIN)/pytest -m browser

test-outsiders: $(STAMP)  ## run the tests with Firefox, PgBouncer, Debian's PostgreSQL and an account without a name
	@$(BIN)/pytest -m outsiders

screenshots: $(STAMP)  ## retake the pictures of the report in docs/images
	@$(BIN)/python -m doceval_pipeline_tests.browser.screenshots

test-slow: $(STAMP)  ## run the tests that repeat one operation many times, to find rare data loss
	@$(BIN)/pytest -m "slow and not simulations"

test-simulations: $(STAMP)  ## simulate margins of families of models, and intervals over clusters
	@$(PYTEST) -m simulations

test-slow-recurring: $(STAMP)  ## run the real daemon with a schedule of every minute, for at least ten minutes
	@RECURRING_TEST_MINUTES=10 $(BIN)/pytest -m slow doceval_pipeline_tests/cli/test_recurring_daemon.py

test-faults: $(STAMP)  ## inject kills, cut connections, full disks and late commits, thousands of times
	@$(BIN)/pytest -m faults

bench: $(STAMP)  ## run the benchmarks, in under an hour; for one of them: make bench CASE=5
	@$(BIN)/python -m benchmarks $(CASE)

check: $(STAMP)  ## check format, lint, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@echo "check: ok"

format: $(STAMP)  ## format the code and fix what lint can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock:  ## rewrite requirements.lock from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --extra dev pyproject.toml --output-file requirements.lock

clean:  ## remove .venv; databases and reports under .doceval stay
	rm -rf .venv
