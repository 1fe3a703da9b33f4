# `make` or `make help` lists the targets. Every target that needs the environment makes it first (scripts/setup).
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON_BIN := .venv/bin/python
EXTRAS ?= dev,minigrid,atari
RUN := $(or $(RUN),runs/demo-$(shell date +%Y%m%d-%H%M%S))
ENV ?= CartPole-v1
PRESET ?=
STEPS ?= 14500
SEED ?= 0
DEVICE ?= auto
WORKERS ?= 2
PYTEST_ARGS ?=

# Two threads on a busy machine wait for each other; passive waiting leaves the core to whoever has work.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo lint types test test-slow test-gpu speed constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "Variables: RUN=$(RUN) ENV=$(ENV) PRESET=$(PRESET) STEPS=$(STEPS) SEED=$(SEED)" \
		"DEVICE=$(DEVICE) EXTRAS=$(EXTRAS) WORKERS=$(WORKERS)"

setup: ## make .venv (EXTRAS=dev,minigrid,atari); instant when nothing changed
	@scripts/setup "$(EXTRAS)"

demo: setup ## train on CartPole-v1 for 14,500 steps, then write the report
	$(PYTHON_BIN) -m worldstream train --env $(ENV) $(addprefix --preset ,$(PRESET)) --steps $(STEPS) --seed $(SEED) \
		--device $(DEVICE) --output $(RUN)
	$(PYTHON_BIN) -m worldstream report $(RUN)
	@echo "The run, its metrics and its report are in $(RUN)/"

lint: setup ## ruff: rules and format
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m ruff format --check -q .

types: setup ## mypy
	$(PYTHON_BIN) -m mypy src

test: export OMP_NUM_THREADS = 1
test: lint types ## ruff, mypy and the default tests (WORKERS, PYTEST_ARGS)
	$(PYTHON_BIN) -m pytest -q -n $(WORKERS) $(PYTEST_ARGS)

test-slow: export OMP_NUM_THREADS = 1
test-slow: setup ## the tests marked slow
	$(PYTHON_BIN) -m pytest -q -n $(WORKERS) -m "slow and not gpu" $(PYTEST_ARGS)

test-gpu: setup ## the tests marked gpu (one process)
	$(PYTHON_BIN) -m pytest -q -m gpu $(PYTEST_ARGS)

speed: setup ## the speed benchmark
	$(PYTHON_BIN) benchmarks/speed.py

# Local wheels (pip's find-links) may add a local version to torch; the public index has none, so it is cut off.
constraints: setup ## resolve pyproject.toml anew into constraints.txt, keeping torch
	@grep '^torch==' constraints.txt >.venv/pins.in
	@printf 'hatchling\nuv\n' >.venv/tools.in
	UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" $(PYTHON_BIN) -m uv pip compile -q pyproject.toml .venv/tools.in \
		-c .venv/pins.in --upgrade --all-extras --python-version 3.11 \
		--no-header --no-annotate -o .venv/resolved.txt
	@{ grep '^#' constraints.txt; \
		grep -vE '^(nvidia-|cuda-|triton==|#)' .venv/resolved.txt | sed 's/+cpu$$//'; } >.venv/new.txt
	@mv .venv/new.txt constraints.txt && echo "constraints.txt: $$(grep -c == constraints.txt) packages"

clean: ## remove .venv and every cache; runs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
