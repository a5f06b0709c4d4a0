# LivePulse: every target makes .venv by itself (Python 3.11 or 3.12 must be there; nothing else is installed by hand).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2
# Where it is set, each of the many processes of a test run or a demo would compile all that it imports: 6 s of 9.
unexport PYTHONDONTWRITEBYTECODE

CODE := flows schemas sinks grafana tests benchmarks

.PHONY: help demo test test-faults test-fuzz soak check lint types format boards env bench kafka lock docs clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## Broker, simulated traffic, engine, store and a live table; Ctrl-C ends it (ARGS="--for 60s")
	@$(BIN)/livepulse demo $(ARGS)

test: lint types ## Style, types, then all tests, in JOBS=2 processes (ARGS="-k heat")
	@$(BIN)/python -c "from flows import precompile; precompile.ready()" # else each process of tests would
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(ARGS)

test-faults: $(READY) ## Kills and faults on a real broker (ROUNDS=50 SEED=n repeats a run)
	@FAULTS=all ROUNDS=$${ROUNDS:-50} $(BIN)/python -m pytest tests/faults -s $(ARGS)

test-fuzz: $(READY) ## 100,000 mutated events through the whole engine (FUZZ=n)
	@FUZZ=$${FUZZ:-100000} $(BIN)/python -m pytest tests/faults/test_fuzz.py -s $(ARGS)

soak: $(READY) ## Unique keys for MINUTES=30 at RATE=5000: memory, recovery and parts must stay flat
	@MINUTES=$${MINUTES:-30} $(BIN)/python -m pytest tests/faults/test_soak.py -s $(ARGS)

lint: $(READY) ## Style of the code
	@$(BIN)/ruff check $(wildcard $(CODE))
	@$(BIN)/ruff format --check $(wildcard $(CODE))

types: $(READY) ## Types, strictly
	@$(BIN)/mypy

format: $(READY) ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix $(wildcard $(CODE)) || true
	@$(BIN)/ruff format $(wildcard $(CODE))

boards: $(READY) ## Write Grafana's dashboards and provisioning from the code, then run all of their queries
	@$(BIN)/livepulse boards build
	@$(BIN)/livepulse boards check

env: ## Write .env with random passwords for docker-compose.yml (never over one that is there)
	@test ! -e .env || { echo ".env is there already; remove it to make new passwords"; exit 1; }
	@umask 077; random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }; { \
	  for name in CLICKHOUSE_PASSWORD READER_PASSWORD GRAFANA_PASSWORD; do echo "LIVEPULSE_$$name=$$(random)"; done; \
	  echo "LIVEPULSE_KAFKA_CLUSTER=$$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')"; \
	  for name in OPERATORS SRE; do echo "LIVEPULSE_$${name}_WEBHOOK=http://nobody.invalid/yet"; done; \
	  echo "LIVEPULSE_LANGUAGE=en"; } > .env
	@echo "wrote .env (mode 0600); docker compose up -d starts everything, --profile simulate adds traffic"

bench: $(READY) ## Throughput and latency on a real broker of its own, as ratios, with JSON in bench-out/
	@mkdir -p bench-out
	@$(BIN)/livepulse bench throughput --json-file bench-out/throughput.json $(ARGS)
	@$(BIN)/livepulse bench latency --rate 20000 --json-file bench-out/latency.json

kafka: $(READY) ## A real Kafka broker on a free port until Ctrl-C (ARGS=9092 for a fixed one; needs Java and Maven)
	@$(BIN)/python -m flows.broker $(ARGS)

docs: $(READY) ## Write what derives from the code (docs/settings.md)
	@$(BIN)/livepulse config docs > docs/settings.md

lock: $(READY) ## Choose versions anew: requirements.lock from pyproject.toml, with hashes
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
	  --upgrade --quiet --output-file requirements.lock

clean: ## Remove what was made here (not stores of yours)
	rm -rf $(VENV) .kafka build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bench-out
	find $(wildcard $(CODE)) -name __pycache__ -prune -exec rm -rf {} +

# uv is quicker where it is there; its own network settings may differ from pip's, so pip follows if it fails. With pip
# only what a start imports is compiled to bytecode: all of it took 15 s of the minute to the first board.
$(READY): pyproject.toml requirements.lock
	@python=$$(./.ci/find-python); \
	echo "making $(VENV) with $$($$python --version) ..."; \
	rm -rf $(VENV); \
	$$python -m venv $(VENV); \
	{ command -v uv >/dev/null && VIRTUAL_ENV=$(VENV) uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock; } \
	  || $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	$(BIN)/python -c "import flows.cli_commands, flows.engine, flows.demo, sinks.gateway"
	@touch $@
