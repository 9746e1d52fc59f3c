# Everything is done by make; `make help` lists it. Nothing needs to be installed first but
# Python 3.11 or later: the tools go into .venv, pinned by requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-cluster test check bench cluster cluster-down images docs lock clean

help: ## List what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv (the others do it for you)

$(STAMP): requirements.lock pyproject.toml
	@PYTHON=$(PYTHON) sh tools/setup.sh $(VENV)
	@touch $@

demo: $(STAMP) ## Run examples/flights: a pipeline of Spark, Dask and Python jobs, with its bill
	@$(BIN)/piecework demo

demo-cluster: $(STAMP) ## The same on bought machines: a real Kubernetes and Karpenter, here (as root)
	@$(BIN)/python -m testbed.demo

test: $(STAMP) ## Run all tests
	@sh tools/test.sh $(BIN)

check: $(STAMP) ## Format, lint, types, import rules, unit tests: under a minute
	@sh tools/check.sh $(BIN)

bench: $(STAMP) ## Measure, side by side, printed as ratios
	@$(BIN)/python -m bench

cluster: $(STAMP) ## Bring a real Kubernetes up on this machine (as root; see docs/testbed.md)
	@$(BIN)/python -m testbed up

cluster-down: $(STAMP) ## Remove all of it, however it was left
	@$(BIN)/python -m testbed down

images: $(STAMP) ## Build and push the images of images/: to the testbed that is up, or REGISTRY=...
	@$(BIN)/python tools/images.py --registry "$(REGISTRY)" --tag "$(or $(TAG),1)" $(IMAGES)

docs: $(STAMP) ## Write the generated parts of the documentation anew
	@$(BIN)/python tools/docs.py

lock: $(STAMP) ## Pin the newest versions that fit together in requirements.lock
	@sh tools/lock.sh $(BIN)

clean: ## Remove what was installed and made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
