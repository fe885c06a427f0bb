# `make demo` shows the service, `make test` tests it; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.12 || command -v python3)
UV_VERSION := 0.13.9
UV := .venv/bin/uv
BIN := .venv/bin
DEMO_DIR ?= .demo
PORT ?= 8000
JOBS ?= 2
# What takes longer has a target of its own.
SHORT := not chaos and not slurm and not lepton and not gpu
# GPUs that test-gpu uses at once, one a test.
GPUS ?= 1
GPU_INPUTS ?= .demo-gpu

# Without compiled modules every process of the service would take seconds to start.
unexport PYTHONDONTWRITEBYTECODE
# The environments are the project's own, whatever is active outside.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

.PHONY: help setup setup-trainer setup-slurm demo demo-slurm serve check format test test-fast test-chaos test-slurm \
        test-lepton test-gpu schema coverage bench bench-slurm bench-gpu clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.done  ## The service's environment (no torch)

.venv/.done: requirements/service.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' \
	  || { echo "Python 3.12 is needed; found $$($(PYTHON) --version). Name it: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements/service.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

setup-trainer: .venv-trainer/.done  ## The trainer's environment (torch, Megatron-Bridge; 6 GB)

.venv-trainer/.done: requirements/trainer.txt requirements/trainer-nodeps.txt | setup
	@echo "Installing torch and Megatron-Bridge into .venv-trainer (6 GB, a few minutes the first time)"
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-trainer
	$(UV) pip install --python .venv-trainer/bin/python -r requirements/trainer.txt
	$(UV) pip install --python .venv-trainer/bin/python --no-deps -r requirements/trainer-nodeps.txt
	@touch $@

setup-slurm: setup  ## Debian's Slurm, for demo-slurm and the tests; as root
	@$(BIN)/python -m demo.slurm install

demo-slurm: setup setup-trainer setup-slurm  ## The same on two nodes of a real Slurm, started on this machine
	$(BIN)/python -m demo $(DEMO_DIR)-slurm --slurm

demo: setup setup-trainer  ## One real fine-tuning job through the whole service
	$(BIN)/python -m demo $(DEMO_DIR)

serve: setup  ## The service on PORT (8000), on the data of the demo
	$(BIN)/sft serve --port $(PORT) --data-dir $(DEMO_DIR)

check: setup  ## Lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup setup-trainer  ## Every test but the long ones below, with real fine-tuning runs
	-@$(BIN)/python -m demo.slurm install
	$(BIN)/pytest -n $(JOBS) -m "$(SHORT)"

test-fast: setup  ## What daily work needs: no training, no slow tests
	$(BIN)/pytest -n $(JOBS) -m "not training and not slow and $(SHORT)"

test-chaos: setup setup-trainer  ## Kills, restarts and breaks everything that the service stands on: half an hour
	$(BIN)/pytest -n $(JOBS) --dist loadfile tests/chaos tests/test_failures.py

test-slurm: setup setup-trainer setup-slurm  ## All of tests/slurm, on a real Slurm: kills, hangs, 200 jobs; a quarter of an hour
	$(BIN)/pytest -n $(JOBS) --dist loadfile tests/slurm

test-lepton: setup setup-trainer  ## All of tests/lepton, on a server that speaks Lepton's API; as root, ten minutes
	$(BIN)/pytest -n $(JOBS) --dist loadfile tests/lepton tests/worker/backends/lepton

test-gpu: setup  ## All of tests/gpu; SFT_TRAINER_PYTHON names an environment with Transformer Engine; GPUS=2 with two
	$(BIN)/pytest -n $(GPUS) --dist loadfile -m "gpu and not two_gpus" tests/gpu
	$(BIN)/pytest -m two_gpus tests/gpu

schema: setup-trainer  ## What the installed Megatron-Bridge lets a config set, into trainer/config/bridge.json
	HF_HUB_OFFLINE=1 HF_HUB_CACHE=tests/hub .venv-trainer/bin/python -m trainer.bridge.describe

coverage: setup setup-trainer  ## Branch coverage of the whole suite
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS) -m "$(SHORT)"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: setup  ## What looking at 1,000 shards of packed data takes
	$(BIN)/python -m bench.inspect

bench-slurm: setup setup-slurm  ## What submitting to Slurm and watching thousands of jobs takes
	$(BIN)/python -m bench.slurm

bench-gpu: setup  ## What training through the trainer costs beside Bridge alone, on one GPU, on inputs in GPU_INPUTS
	HF_HUB_OFFLINE=1 PYTHONPATH=. $${SFT_TRAINER_PYTHON:-.venv-trainer/bin/python} -m demo.gpu $(GPU_INPUTS)
	$(BIN)/python -m bench.gpu $(GPU_INPUTS)

clean:  ## Remove the environments and the demo's data
	rm -rf .venv .venv-trainer .venv-lepton-sdk{,.lock} .venv-client{,.lock} .demo build *.egg-info
