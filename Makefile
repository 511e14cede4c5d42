# Everything runs in .venv, made from requirements.lock (exact versions, checked hashes).
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
STAMP := $(VENV)/.stamp
# A worker per core; each has servers of its own and torch in memory, hence no more than four.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4

.PHONY: help setup demo test lint format check bench up down lock

help: ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(STAMP) ## create .venv with the pinned dependencies

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Retrain needs Python 3.11 or newer, got " + sys.version.split()[0])'
	@echo "setting up $(VENV) (once; about 7 GB because of torch's CUDA libraries)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP) ## run the whole loop on real digits: drift, collect, label, retrain, promote (about 8 minutes)
	@$(BIN)/retrain demo

test: $(STAMP) ## run every test
	@$(PYTEST)

lint: $(STAMP) ## formatting, lint, types and architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## let ruff format and fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

check: lint $(STAMP) ## lint and unit tests, before each commit
	@$(PYTEST) tests/unit

bench: $(STAMP) ## measure the loop over 3 seeds, collection, datasets and training (over an hour)
	@$(BIN)/python benchmarks/loop.py
	@$(BIN)/python benchmarks/collection.py
	@$(BIN)/python benchmarks/near_duplicates.py
	@$(BIN)/python benchmarks/estimator.py
	@$(BIN)/python benchmarks/dataset.py
	@$(BIN)/python benchmarks/training.py

up: $(STAMP) ## start the local stack: Prefect server, worker, MLflow
	@$(BIN)/retrain up

down: $(STAMP) ## stop the local stack
	@$(BIN)/retrain down

lock: ## re-resolve requirements.lock after changing pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --all-extras --group dev pyproject.toml -o requirements.lock
