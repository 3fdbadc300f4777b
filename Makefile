.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEV := .venv/.installed-dev

.PHONY: help setup setup-dev hooks demo up test test-fast coverage test-browser test-outsiders screenshots test-slow test-slow-recurring test-faults test-simulations bench check format lock clean

help:  ## list these targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## install doceval and plain Dagster commands into .venv; write .env for the latter
	@$(BIN)/python -m doceval_pipeline.dagster_home

setup-dev: $(DEV)  ## install also what tests and checks need
	@$(BIN)/python -m doceval_pipeline.dagster_home

# The stamps are newer than what they were made from, so a second run does nothing.
$(STAMP): requirements.lock pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py requirements.lock

$(DEV): requirements-dev.lock pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py requirements-dev.lock

# Their Python may have been removed since.
ifneq ($(shell test -x $(BIN)/python && echo runs),runs)
.PHONY: $(STAMP) $(DEV)
endif

hooks: $(DEV)  ## install git hooks that run the checks before each commit
	@$(BIN)/pre-commit install --hook-type pre-commit --hook-type commit-msg

demo: $(STAMP)  ## evaluate sample documents with a simulated processor and open the completion report
	@$(BIN)/doceval demo

up: $(STAMP)  ## run the database server, Dagster's webserver and its daemon until Ctrl-C
	@$(BIN)/doceval up

# Files run in their own order. The default order, by number of tests, would run the slowest file last and alone.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(DEV)  ## run the tests on a real PostgreSQL and a real Dagster instance, two files at a time
	@$(PYTEST) $(COVERAGE)

test-fast: $(DEV)  ## run the tests that need no server, in under a minute, before each commit
	@$(PYTEST) -m fast

coverage: $(DEV)  ## run the tests and list the lines and branches that they miss; fails below the floor
	@$(PYTEST) --cov --cov-report=term

test-browser: $(DEV)  ## run the tests that drive Dagster's UI and the report in Chromium
	@$(BIN)/pytest -m browser

test-outsiders: $(DEV)  ## run the tests with Firefox, PgBouncer, Redis, Debian's PostgreSQL and an account without a name
	@$(BIN)/pytest -m outsiders

screenshots: $(DEV)  ## retake the pictures of the report in docs/images
	@$(BIN)/python -m doceval_pipeline_tests.browser.screenshots

test-slow: $(DEV)  ## run the tests that repeat one operation many times, to find rare data loss, two files at a time
	@$(PYTEST) -m "slow and not simulations"

test-simulations: $(DEV)  ## simulate margins of families of models, and intervals over clusters
	@$(PYTEST) -m simulations

test-slow-recurring: $(DEV)  ## run the real daemon with a schedule of every minute, for at least ten minutes
	@RECURRING_TEST_MINUTES=10 $(BIN)/pytest -m slow doceval_pipeline_tests/cli/test_recurring_daemon.py

test-faults: $(DEV)  ## inject kills, cut connections, full disks and late commits, thousands of times
	@$(BIN)/pytest -m faults

bench: $(DEV)  ## run the benchmarks, in under an hour; for one of them: make bench CASE=5
	@$(BIN)/python -m benchmarks $(CASE)

check: $(DEV)  ## check format, lint, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@echo "check: ok"

format: $(DEV)  ## format the code and fix what lint can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url pyproject.toml

lock:  ## rewrite both lock files from pyproject.toml (needs uv)
	$(LOCK) --extra setup --output-file requirements.lock >/dev/null
	$(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock >/dev/null

clean:  ## remove .venv; databases and reports under .doceval stay
	rm -rf .venv
