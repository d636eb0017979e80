# Every target makes its own .venv the first time. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
WORKERS ?= 2
DEMO ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-slow lint format clean clean-all

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "vaekit needs Python 3.11 or newer; set PYTHON=…"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: a range could choose a build of several GB for another kind of machine
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (once) …"
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what the tests need (once) …"
	@$(PIP) --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## vaekit in .venv
install-dev: $(VENV)/.installed-dev ## and what the tests need

demo: install ## train on handwritten digits, evaluate, make pictures: two minutes
	@rm -rf $(DEMO)
	@$(BIN)/vaekit train digits --out $(DEMO)
	@$(BIN)/vaekit evaluate $(DEMO)
	@echo "pictures:"
	@$(BIN)/vaekit pictures $(DEMO)

test: install-dev ## the quick suite: under three minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

test-slow: install-dev ## what takes longer: many kills, the compiler, every combination
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

lint: install-dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install-dev ## let ruff put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove caches
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean ## and the environment; runs/ and data/ stay
	rm -rf $(VENV)
