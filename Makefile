# `make demo` and `make test` are all the set-up there is: each makes .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help demo test lint clean
.DEFAULT_GOAL := help

help: $(STAMP) ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(STAMP) ## ring the same doorbell over every route on three architectures
	$(BIN)/pvmmio compare

test: $(STAMP) ## the whole test suite, with ruff and mypy
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n auto $(PYTEST_ARGS)

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove .venv and what tools left behind
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
