# make up serves the default fleet; make test runs everything. `make help` lists the rest.

PYTHON ?= python3
FLEET ?= examples/default/fleet.yaml
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash

bin := .venv/bin
declared := pyproject.toml $(wildcard core/pyproject.toml backends/*/pyproject.toml plugins/*/pyproject.toml)
# The version is kept in core/argosy/__init__.py, and an editable install remembers the one it saw.
locked := requirements/tools.txt $(declared) core/argosy/__init__.py scripts/environment
heavy := .venv-engines/engines.stamp

.PHONY: help up down status test check bench soak lock build env dev engines clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

up: .venv/default.stamp ## install what is missing, start the default fleet, return when it is Ready
	@$(bin)/argosy up --detach $(FLEET) $(ARGS)

# These two install nothing: a fleet may be running on what is there.
down: ## stop the fleet
	@test -x $(bin)/argosy || { echo "no .venv here, so no fleet was started from here"; exit 1; }
	@$(bin)/argosy down $(ARGS)

status: ## say how the fleet is
	@test -x $(bin)/argosy || { echo "no .venv here, so no fleet was started from here: make up"; exit 1; }
	@$(bin)/argosy status $(ARGS)

# The 3 GB of .venv-engines are for the whole suite, and for ARGS that name one of its tests.
test: .venv/dev.stamp $(if $(or $(if $(ARGS),,all),$(findstring test_engines_,$(ARGS))),$(heavy)) ## install what is missing, run the whole test suite
	@scripts/test $(ARGS)

check: .venv/dev.stamp ## lint, formatting, types
	@scripts/check

bench: .venv/dev.stamp ## measure the fleet against the bare engines
	@$(bin)/python -m benchmarks $(ARGS)

soak: .venv/dev.stamp $(heavy) ## run what takes too long for the tests
	@scripts/test tests/test_engines_gpu_bench.py
	@$(bin)/python -m benchmarks.soak $(ARGS)

lock: .venv/default.stamp ## resolve requirements/ again
	@scripts/lock $(ARGS)

build: .venv/default.stamp ## build a wheel of every distribution into dist/
	@scripts/build

env: .venv/default.stamp ## make .venv, for the fleet

dev: .venv/dev.stamp ## make .venv, for work on Argosy

engines: $(heavy) ## make .venv-engines, for tests of engines too heavy for .venv

clean: ## remove what the other targets made, .venv included
	rm -rf .venv .venv-engines dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find core backends plugins tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

.venv/default.stamp: requirements/default.txt $(locked)
	@PYTHON=$(PYTHON) scripts/environment default
	@touch $@

.venv/dev.stamp: requirements/dev.txt $(locked)
	@PYTHON=$(PYTHON) scripts/environment dev
	@touch $@ .venv/default.stamp

# Where the machine cannot have it there is no stamp: the reason is told each time, and scripts/test skips what needs it.
$(heavy): requirements/engines.txt $(locked) | .venv/dev.stamp
	@PYTHON=$(PYTHON) scripts/environment engines && touch $@ || [ $$? = 3 ]
