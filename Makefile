# Every target makes its own .venv the first time. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VAEKIT := $(BIN)/vaekit
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
WORKERS ?= 2
DEMO ?= runs/demo
RECIPE ?= mnist-mlp

# the newest run: the config.yaml below runs/ that was written last
RUN ?= $(shell find runs -name config.yaml -exec ls -t {} + 2>/dev/null | head -n 1 | sed 's|/config.yaml$$||')
WHERE := $(if $(DATA),--data-dir "$(DATA)")

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo train-mnist train-fashion train-cifar10 train-afhq run eval sample viz-recon \
  viz-traverse viz-scatter interpolate compare-dae selftest test test-slow test-plain lint \
  format bench gpu-check clean clean-all

help: ## what can be made
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1\t/' | expand -t 16
	@echo
	@echo "  RUN=runs/mnist    which run to look at; the newest one below runs/ where it is not said"
	@echo "  DATA=folder       where data sets lie or are downloaded to"
	@echo '  ARGS="..."        more for the command: ARGS="training.epochs=5 --out runs/short", ARGS="--dims 0,3"'

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

$(VENV)/.installed-with-%: $(VENV)/.installed
	@echo "installing $* (once) …"
	@$(PIP) --editable '.[$*]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what the tests need (once) …"
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@echo "installing what is measured against (once) …"
	@$(PIP) --editable '.[bench]'
	@touch $@

install: $(VENV)/.installed $(EXTRAS:%=$(VENV)/.installed-with-%) ## vaekit in .venv; EXTRAS=tensorboard brings that too
install-dev: $(VENV)/.installed-dev ## and what the tests need

demo: install ## train on handwritten digits, evaluate, make pictures: two minutes
	@rm -rf $(DEMO)
	@$(VAEKIT) train digits --out $(DEMO)
	@$(VAEKIT) evaluate $(DEMO)
	@echo "pictures:"
	@$(VAEKIT) pictures $(DEMO)

train-mnist: install ## train the recipe mnist
	@$(VAEKIT) train mnist $(WHERE) $(ARGS)

train-fashion: install ## train the recipe fashion-mnist
	@$(VAEKIT) train fashion-mnist $(WHERE) $(ARGS)

train-cifar10: install ## train the recipe cifar10
	@$(VAEKIT) train cifar10 $(WHERE) $(ARGS)

train-afhq: install ## train the recipe afhq; DATA=… holds the folder afhq
	@$(VAEKIT) train afhq $(WHERE) $(ARGS)

run:
	@test -n "$(RUN)" || { echo "there is no run below runs/; train one (make demo), or name one with RUN=…"; exit 2; }
	@echo "run: $(RUN)"

eval: install run ## likelihood bound, PSNR, SSIM and a diagnosis of RUN
	@$(VAEKIT) evaluate "$(RUN)" $(WHERE) $(ARGS)

sample: install run ## images from the prior of RUN
	@$(VAEKIT) sample "$(RUN)" $(WHERE) $(ARGS)

viz-recon: install run ## test images of RUN beside their reconstructions
	@$(VAEKIT) reconstruct "$(RUN)" $(WHERE) $(ARGS)

viz-traverse: install run ## one latent dimension of RUN after the other
	@$(VAEKIT) traverse "$(RUN)" $(WHERE) $(ARGS)

viz-scatter: install run ## codes of RUN coloured by class, KL, histograms, statistics
	@$(VAEKIT) latents "$(RUN)" $(WHERE) $(ARGS)

interpolate: install run ## from one image to another: ARGS="a.png b.png"
	@$(VAEKIT) interpolate "$(RUN)" $(WHERE) $(ARGS)

compare-dae: install ## train RECIPE as a VAE and as a denoising autoencoder, and compare
	@$(VAEKIT) compare-dae $(RECIPE) $(WHERE) $(ARGS)

selftest: install ## do the numbers hold on this machine? a table, in under three minutes
	@$(VAEKIT) selftest $(ARGS)

test: install-dev ## the quick suite: under three minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

test-slow: install-dev ## what takes longer: many kills, the compiler, every combination
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

test-plain: ## every command in an environment with no extra; it makes its own, .venv-plain
	@$(MAKE) --no-print-directory VENV=.venv-plain install
	@OMP_NUM_THREADS=1 .venv-plain/bin/python scripts/every_verb.py

lint: install-dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install-dev ## let ruff put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed-bench ## measure the speed; QUICK=1 is shorter, WRITE=1 keeps the numbers in docs
	@$(BIN)/python -m benchmarks $(if $(filter 1,$(QUICK)),--quick) $(if $(filter 1,$(WRITE)),--write docs/performance.md)

gpu-check: $(VENV)/.installed-bench ## every GPU figure of the docs as JSON, in nine minutes; REHEARSE=1 on a CPU, small
	@$(BIN)/python -m benchmarks.gpu_check $(if $(filter 1,$(REHEARSE)),--rehearse) $(WHERE) $(ARGS)

clean: ## remove caches
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean ## and the environment; runs/ and data/ stay
	rm -rf $(VENV) .venv-plain
