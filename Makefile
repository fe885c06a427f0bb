# `make demo` shows the service, `make test` tests it; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.12 || command -v python3)
UV_VERSION := 0.13.9
UV := .venv/bin/uv
BIN := .venv/bin
DEMO_DIR ?= .demo
PORT ?= 8000
JOBS ?= 3
# Longer tests have their own targets.
SHORT := not chaos and not slurm and not lepton and not gpu and not hostile
# GPUs that test-gpu uses in parallel, one per test.
GPUS ?= 1
GPU_INPUTS ?= .demo-gpu

# Without compiled modules every process of the service takes seconds to start.
unexport PYTHONDONTWRITEBYTECODE
# Use the project's environments, whichever environment is active.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

.PHONY: help setup setup-trainer setup-slurm demo demo-slurm serve check format test test-fast test-chaos test-slurm \
        test-lepton test-hostile test-gpu fuzz audit sbom schema coverage bench bench-slurm bench-gpu clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.done  ## Install the service's environment (no torch)

.venv/.done: requirements/service.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' \
	  || { echo "Python 3.12 is required; found $$($(PYTHON) --version). Run: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements/service.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

setup-trainer: .venv-trainer/.done  ## Install the trainer's environment (torch, Megatron-Bridge; 6 GB)

.venv-trainer/.done: requirements/trainer.txt requirements/trainer-nodeps.txt | setup
	@echo "Installing torch and Megatron-Bridge into .venv-trainer (6 GB, a few minutes the first time)"
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-trainer
	$(UV) pip install --python .venv-trainer/bin/python -r requirements/trainer.txt
	@# Compiled here, because isolated runs cannot write into it.
	$(UV) pip install --python .venv-trainer/bin/python --no-deps --compile-bytecode \
	  -r requirements/trainer-nodeps.txt
	@touch $@

setup-slurm: setup  ## Install Debian's Slurm, for demo-slurm and the tests; as root
	@$(BIN)/python -m demo.slurm install

demo-slurm: setup setup-trainer setup-slurm  ## Run the demo on two nodes of a real Slurm, started on this machine
	$(BIN)/python -m demo $(DEMO_DIR)-slurm --slurm

demo: setup setup-trainer  ## Run one real fine-tuning job through the complete service
	$(BIN)/python -m demo $(DEMO_DIR)

serve: setup  ## Run the service on PORT (8000), on the data of the demo
	$(BIN)/sft serve --port $(PORT) --data-dir $(DEMO_DIR)

check: setup  ## Check lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Fix lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup setup-trainer  ## Run all tests except the long ones below, with real fine-tuning runs
	-@$(BIN)/python -m demo.slurm install
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "$(SHORT)"

test-fast: setup  ## Run the tests for daily work: no training, no slow tests
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not training and not slow and $(SHORT)"

test-chaos: setup setup-trainer  ## Run the chaos tests (kill and restart service, broker, database): half an hour
	$(BIN)/pytest -n $(JOBS) --dist loadfile tests/chaos tests/test_failures.py

test-slurm: setup setup-trainer setup-slurm  ## Run tests/slurm on a real Slurm: kills, hangs, 200 jobs; a quarter of an hour
	$(BIN)/pytest -n $(JOBS) --dist loadfile tests/slurm

test-lepton: setup setup-trainer  ## Run tests/lepton on a server with Lepton's API; as root, ten minutes
	$(BIN)/pytest -n $(JOBS) --dist loadfile tests/lepton tests/worker/backends/lepton

test-hostile: setup  ## Attack a running service with thousands of hostile requests and files; a quarter of an hour
	$(BIN)/pytest -m hostile tests/hostile

fuzz: setup  ## Fuzz the readers of foreign files for ten minutes
	SFT_FUZZ_EXAMPLES=$${SFT_FUZZ_EXAMPLES:-6000} $(BIN)/pytest -n $(JOBS) --timeout 0 tests/worker/sandbox/test_fuzz.py

audit: setup  ## Look for known vulnerabilities in the requirements, and for risky code
	$(UV) tool run 'bandit[toml]@1.9.4' --quiet --configfile pyproject.toml --recursive api worker trainer cli migrations
	$(UV) tool run pip-audit@2.10.1 --strict --disable-pip --no-deps -r requirements/runtime.txt
	$(UV) tool run pip-audit@2.10.1 --strict --disable-pip --no-deps -r requirements/trainer.txt

sbom: setup setup-trainer  ## Write what both environments contain (CycloneDX) to build/
	mkdir -p build
	$(UV) tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment --output-format JSON -o build/service.cdx.json .venv/bin/python
	$(UV) tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment --output-format JSON -o build/trainer.cdx.json .venv-trainer/bin/python

test-gpu: setup  ## Run tests/gpu; SFT_TRAINER_PYTHON: an environment with Transformer Engine; GPUS=2 for two GPUs
	$(BIN)/pytest -n $(GPUS) --dist loadfile -m "gpu and not two_gpus" tests/gpu
	$(BIN)/pytest -m two_gpus tests/gpu

schema: setup-trainer  ## Write the config schema of the installed Megatron-Bridge to trainer/config/bridge.json
	HF_HUB_OFFLINE=1 HF_HUB_CACHE=tests/hub .venv-trainer/bin/python -m trainer.bridge.describe

coverage: setup setup-trainer  ## Measure branch coverage of the test suite
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS) -m "$(SHORT)"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: setup setup-trainer  ## Measure the inspection of 1,000 shards of packed data, and packing
	$(BIN)/python -m bench.inspect
	$(BIN)/python -m bench.pack

bench-slurm: setup setup-slurm  ## Measure submission to Slurm, and polling of thousands of jobs
	$(BIN)/python -m bench.slurm

bench-gpu: setup  ## Compare the trainer with Bridge alone, on one GPU, on inputs in GPU_INPUTS
	HF_HUB_OFFLINE=1 PYTHONPATH=. $${SFT_TRAINER_PYTHON:-.venv-trainer/bin/python} -m demo.gpu $(GPU_INPUTS)
	$(BIN)/python -m bench.gpu $(GPU_INPUTS)

clean:  ## Remove the environments and the demo's data
	rm -rf .venv .venv-trainer .venv-lepton-sdk{,.lock} .venv-client{,.lock} .demo build *.egg-info
