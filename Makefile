# Everything starts here: `make help` lists what there is. Works with GNU Make 3.81 (macOS) and later.
PYTHON ?= python3
SEEDS ?= 200
EXAMPLES ?= 20000

VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python
# One BLAS thread: peers are processes, and threads that fight for the same cores make tests slow and uneven.
TEST := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(RUN) -m pytest
# mypy refuses a folder without Python files, so only those with some are named.
TYPED := $(sort $(dir $(wildcard $(addsuffix /*.py,p2pinfer tests examples benchmarks simulations))))

.DEFAULT_GOAL := help
.PHONY: help demo test check sim soak bench fuzz docs format install clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Settings: PYTHON=$(PYTHON) SEEDS=$(SEEDS) EXAMPLES=$(EXAMPLES), as in: make sim SEEDS=1000"

# The value is taken as it was typed, and travels in the environment: no shell and no make ever reads it.
demo: export override PROMPT := $(value PROMPT)
demo: $(STAMP) ## Run a swarm on this machine, kill a peer in mid-sentence; PROMPT="..." asks something else
	@$(RUN) -m p2pinfer.cli.demo

# Tests share the cores, but for those that start processes, which need them for themselves.
test: $(STAMP) ## Run all tests but the long ones
	@$(TEST) -n auto -m "not soak" --ignore=tests/e2e
	@$(TEST) -m "not soak" tests/e2e

check: $(STAMP) ## Check format, lint, types, the arrows between packages and the budgets
	@$(RUN) -m ruff format --check --quiet .
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m mypy --no-error-summary $(TYPED)
	@$(TEST) tests/test_architecture.py tests/test_tidy.py

sim: $(STAMP) ## Run the simulation with SEEDS seeds
	@$(TEST) --timeout=0 --seeds=$(SEEDS) -m "not soak" tests/simulation

soak: $(STAMP) ## Half an hour of kills, stops and joins under load, then the long tests and the mutants; three hours
	@$(RUN) -m benchmarks.soak --minutes 30
	@$(RUN) -m benchmarks.members --minutes 3
	@$(TEST) --timeout=0 -m soak

bench: $(STAMP) ## Measure side by side: llama.cpp, a bare echo, answers without kills, the DHT of stock kademlia
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@$(RUN) -m benchmarks.decode
	@$(RUN) -m benchmarks.planning
	@$(RUN) -m benchmarks.hop
	@$(RUN) -m benchmarks.dht
	@$(RUN) -m benchmarks.kills --kills 10

fuzz: $(STAMP) ## Run every property test with EXAMPLES fresh examples, then mutate bytes for a minute
	@$(TEST) --timeout=0 --fuzz=$(EXAMPLES) -m hypothesis
	@$(RUN) -m tests.wire.fuzz --seconds 60 --seed $$(date +%s)

docs: $(STAMP) ## Write the pages that are made from the code
	@$(RUN) -m p2pinfer.cli.settings_page docs/settings.md

format: $(STAMP) ## Format the code and mend what ruff can mend by itself
	@$(RUN) -m ruff format --quiet .
	@$(RUN) -m ruff check --quiet --fix .

install: $(STAMP) ## Make .venv with everything in it; the other commands do this by themselves

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "p2pinfer needs Python 3.11 or later, and $(PYTHON) is `$(PYTHON) --version 2>/dev/null || echo missing`: install one and name it, as in make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it first (on Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Making $(VENV): once, about a minute."
	@$(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean: ## Remove what make made, the environment too
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	@find p2pinfer tests examples benchmarks simulations -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
