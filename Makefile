# Every target prepares .venv by itself; PYTHON=... picks another interpreter.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test lint bench docs paper
.DEFAULT_GOAL := help

help:
	@echo "make install   create $(VENV) and install the package with its development tools"
	@echo "make demo      train OffsetA2C on RewardOffsetPointMass / PointMass, at most 5 minutes on 2 cores"
	@echo "make test      all tests but the long ones (pytest -m 'slow or learning')"
	@echo "make lint      ruff check, ruff format --check, mypy --strict"
	@echo "make docs      build/site: tutorial, how-to, reference; opens without a network"
	@echo "make paper     the paper's experiments, 5 seeds, 15 to 30 minutes on 2 cores; writes docs/paper.html"
	@echo "make bench     short forms of the speed benchmarks, about 4 minutes; docs/performance.md"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV): one to three minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/rllib train file tuned_configs/demo.yaml

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[sb3]"
	$(BIN)/python benchmarks/throughput.py --rounds 3 --batches 5
	$(BIN)/python benchmarks/sampler.py --rounds 2 --lanes 8 128
	$(BIN)/python benchmarks/parallel.py sleep --workers 0 8 --steps 800
	$(BIN)/python benchmarks/startup.py --repeats 1 --workers 8
	$(BIN)/python benchmarks/memory.py --iterations 1000 --labels 100000
	$(BIN)/python benchmarks/store.py --rounds 10 --merges 1

paper: $(INSTALLED)  # interrupted, it goes on where it was
	$(BIN)/rllib paper --seeds 5 --out build/paper
	cp build/paper/report/report.html docs/paper.html

docs: $(INSTALLED)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
