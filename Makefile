PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist loadfile

# A .venv that exists keeps its own interpreter; PYTHON only makes a new one.
INTERPRETER := $(or $(wildcard .venv/bin/python),$(PYTHON))
VERSION := $(shell $(INTERPRETER) -c \
  'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := constraints-py$(subst .,,$(VERSION)).txt
STAMP := .venv/.setup-done
UNSUPPORTED = $(INTERPRETER): Python $(or $(VERSION),not found); brainjax \
  needs 3.11 or 3.12. Name one (PYTHON=python3.12), with no .venv in its way

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow soak lint ci clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Make .venv and install brainjax with its tools (once)

demo: $(STAMP) ## A synthetic cohort, end to end, into demo/
	.venv/bin/brainjax demo --out demo

test: $(STAMP) ## The tests, but for the slow ones
	.venv/bin/python -m pytest -m "not slow and not soak" $(PYTEST_ARGS)

test-slow: $(STAMP) ## The slow tests
	.venv/bin/python -m pytest -m slow $(PYTEST_ARGS)

soak: $(STAMP) ## Twenty kills, 2,000 steps, 2,000 damaged files of each kind
	.venv/bin/python -m pytest -m soak

lint: $(STAMP) ## Format, lint, types and import layers, checked
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/pyright
	.venv/bin/lint-imports

ci: ## Everything the gate checks
	.ci/run

clean: ## Remove outputs and caches (.venv stays)
	rm -rf demo build dist .cache .pytest_cache .ruff_cache .import_linter_cache

$(STAMP): pyproject.toml $(wildcard $(CONSTRAINTS))
	$(if $(wildcard $(CONSTRAINTS)),,$(error $(UNSUPPORTED)))
	@echo "Setting up .venv: minutes, once"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip --version >/dev/null 2>&1 \
	  || .venv/bin/python -m ensurepip
	.venv/bin/python -m pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@
