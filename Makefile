# make demo     the whole pipeline on the pocket world, one table at the end
# make test     the tests
# make lint     style and types
# make figures  the README's table: three seeds, and the oracle beside them
VENV ?= .venv
PYTHON = $(VENV)/bin/python
export NPROC ?= 16# XLA's CPU thread pool: sharded steps on 2 cores wait for each other for good with 2 threads

.PHONY: demo figures test lint venv
demo: venv
	PYTHON=$(PYTHON) bash pocket/demo.sh

figures: venv
	PYTHON=$(PYTHON) DEMO=build/figures SEEDS="0 1 2" TARGETS="labels truth" bash pocket/demo.sh

test: venv
	$(PYTHON) -m pytest

lint: venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

venv: $(VENV)/stamp

$(VENV)/stamp: requirements.txt
	bash .ci/venv $(VENV)
