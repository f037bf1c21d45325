# Everything a fresh machine needs. `make` alone lists what there is.
#
#   make demo                        the main job on embedded defaults
#   make demo SERIES=DIR OUT=DIR     … with a chest CT series of yours
#   make test                        real peers, lint, types, import rules, every test, the wheel

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
SERIES ?=
PYTEST_ARGS ?=

# Hundreds of processes are started below; without bytecode each would compile the project anew.
export PYTHONDONTWRITEBYTECODE :=

# What the environment was made from: when one of these changes, it is brought up to date.
RECIPE := pyproject.toml constraints.txt scripts/make-environment

.PHONY: help
help:  ## this list
	@echo 'm3lung-node. Targets:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'First time here? `make demo` shows the product, `make test` shows that it works.'

.PHONY: setup
setup: $(VENV)/.installed  ## the environment in .venv, with the versions of constraints.txt

$(VENV)/.installed: $(RECIPE)
	@scripts/make-environment .
	@touch $@

# The test environment is the same one with more in it.
$(VENV)/.installed-test: $(RECIPE)
	@scripts/make-environment '.[test]'
	@touch $(VENV)/.installed $@

.PHONY: demo
demo: setup  ## a series through the node into a PACS and back [SERIES=DIR] [OUT=DIR]
	@$(BIN)/m3lung demo --out '$(OUT)' $(if $(SERIES),--series '$(SERIES)')

.PHONY: test
test: $(VENV)/.installed-test peers lint unit  ## all checks and every test [PYTEST_ARGS=...]

.PHONY: peers
peers:  ## install the real peers the tests talk to (Debian packages, which need root or sudo; OHIF)
	@scripts/install-peers
	@scripts/install-viewer

.PHONY: lint
lint: $(VENV)/.installed-test  ## style, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: unit
unit: $(VENV)/.installed-test  ## pytest alone, the built wheel included [PYTEST_ARGS=...] [JOBS=2]
	@$(BIN)/pytest -n $(or $(JOBS),2) --dist loadfile --durations 25 --durations-min 5 $(PYTEST_ARGS)

.PHONY: viewer
viewer: $(VENV)/.installed-test  ## results opened in OHIF, in a real browser (needs the peers) [SERIES=DIR]
	@VIEWER_SERIES='$(SERIES)' $(BIN)/pytest tests/viewer

.PHONY: chaos
chaos: $(VENV)/.installed-test  ## make N faults in a real node; count losses [N=200] [SEED=1] [TOPOLOGY=cluster] [MARKDOWN=FILE]
	@$(BIN)/python tests/chaos/drive.py --faults $(or $(N),200) --seed $(or $(SEED),1) \
		--topology $(or $(TOPOLOGY),single) $(if $(MARKDOWN),--markdown '$(MARKDOWN)')

.PHONY: fuzz
fuzz: $(VENV)/.installed-test  ## throw broken bytes at a door [DOOR=header] [SECONDS=60]
	@scripts/fuzz $(or $(DOOR),header) --seconds $(or $(SECONDS),60)

.PHONY: bench
bench: $(VENV)/.installed-test  ## figures with their goals, short; writes docs/benchmarks.md [ONLY=predict]
	@$(BIN)/python benchmarks/run.py $(if $(ONLY),--only $(ONLY),--markdown docs/benchmarks.md)

.PHONY: bench-full
bench-full: $(VENV)/.installed-test  ## the same with whole series and 100,000 series in the ledger
	@$(BIN)/python benchmarks/run.py --full $(if $(ONLY),--only $(ONLY),--markdown docs/benchmarks.md)

.PHONY: format
format: $(VENV)/.installed-test  ## rewrite the sources in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: docs
docs: $(VENV)/.installed-test  ## write anew what the documents say from the sources
	@$(BIN)/python scripts/write_documents.py

.PHONY: pictures
pictures: $(VENV)/.installed-test peers  ## draw the documents' screenshots anew (OHIF, console)
	@$(BIN)/python scripts/draw_screenshots.py

# The tool that makes the site is nobody's need at run time: it comes in with the first `make site`.
$(VENV)/.installed-docs: $(RECIPE)
	@scripts/make-environment '.[docs]'
	@touch $(VENV)/.installed $@

.PHONY: site
site: $(VENV)/.installed-docs  ## the documents as a website in site/, readable without the internet
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'site/index.html'

.PHONY: lock
lock:  ## resolve all dependencies anew into constraints.txt
	@scripts/lock

.PHONY: clean
clean:  ## remove what was built, the environment included
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -not -path './.git/*' -exec rm -rf {} +
