# Two commands set everything up: `make demo` does the main job, `make test` passes the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# torch comes first and by exact version, so that no other build is pulled in behind another package. Where the index
# serves a CUDA build by default, name a CPU one: make demo TORCH="torch==2.13.0 --index-url …".
TORCH  := torch==2.13.0
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint bench demo-eval demo-model clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.package  ## set up and do the main job with the bundled model
	@mkdir -p out
	$(BIN)/preftilt ask "What are some enjoyable ways to study maths?" \
	  --preference "I dislike gamification." --lambda 3 --plot out/demo.png
	@echo "picture: out/demo.png"

test: $(VENV)/.dev  ## set up and run every test
	$(BIN)/python -m pytest

lint: $(VENV)/.dev  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## measure speed, both sides in one run; writes docs/bench/
	$(BIN)/python -m bench

demo-eval: $(VENV)/.dev  ## measure the bundled model on its world's test split; writes docs/demo/
	$(BIN)/preftilt demo-eval -o docs/demo

demo-model: $(VENV)/.dev  ## train the bundled model again from scratch; SEED=1 makes another, in out/
	$(BIN)/python -m tools.train_demo $(if $(SEED),--seed $(SEED) --out out/demo-model-$(SEED))

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.package: $(VENV)/.torch pyproject.toml requirements/constraints.txt
	$(PIP) -c requirements/constraints.txt -e ".[all]"
	@touch $@

$(VENV)/.dev: $(VENV)/.package requirements/dev.txt
	$(PIP) -c requirements/constraints.txt -r requirements/dev.txt
	@touch $@

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis out
