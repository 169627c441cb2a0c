# make demo     the whole pipeline on the pocket world, one table at the end
# make test     the tests
# make lint     style and types
# make figures  the README's table: three seeds, and the oracle beside them
# make voc      Pascal VOC 2012 with the real models: fetches both, ends with our row beside the published ones
# make water    FOLDER=… of Image/ and Mask/; make photos FOLDER=… WORDS=…: your own, with the real models
VENV ?= .venv
PYTHON = $(VENV)/bin/python
export NPROC ?= 16# XLA's CPU thread pool: sharded steps on 2 cores wait for each other for good with 2 threads

.PHONY: demo figures voc water photos test lint venv
demo: venv
	PYTHON=$(PYTHON) bash pocket/demo.sh

figures: venv
	PYTHON=$(PYTHON) DEMO=build/figures SEEDS="0 1 2" TARGETS="labels truth" bash pocket/demo.sh

voc: venv
	PYTHON=$(PYTHON) bash launch/voc.sh

water: venv
	PYTHON=$(PYTHON) CONFIG=configs/river_water.py OUT=$${OUT:-build/water} bash launch/photos.sh "$(FOLDER)"

photos: venv
	PYTHON=$(PYTHON) bash launch/photos.sh "$(FOLDER)" $(if $(WORDS),"$(WORDS)")

test: venv
	$(PYTHON) -m pytest

lint: venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

venv: $(VENV)/stamp

$(VENV)/stamp: requirements.txt
	@echo "requirements.txt goes into $(VENV): 2.2 GB with PyTorch's CPU wheel, more with CUDA's libraries"
	bash .ci/venv $(VENV)
