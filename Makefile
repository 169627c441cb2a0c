# make demo     the whole pipeline on the pocket world, one table at the end
# make test     the tests
# make lint     style and types
# make figures  the README's figures: three seeds, the oracle beside them, every claim (docs/claims.md)
# make readme-figures  the README's figures again from docs/figures.json and docs/claims.json
# make voc      Pascal VOC 2012 with the real models: fetches both, ends with our row beside the published ones
# make water    FOLDER=… of Image/ and Mask/; make photos FOLDER=… WORDS=…: your own, with the real models
VENV ?= .venv
PYTHON = $(VENV)/bin/python
export NPROC ?= 16# XLA's CPU thread pool: sharded steps on 2 cores wait for each other for good with 2 threads

.PHONY: demo figures readme-figures voc water photos test lint venv
demo: venv
	rm -rf build/demo
	$(PYTHON) -m pocket.demo --out=build/demo

figures: venv
	rm -rf build/figures
	$(PYTHON) -m pocket.demo --out=build/figures --seeds=0,1,2 --targets=labels,truth
	$(PYTHON) -m experiments.claims --config=configs/pocket.py --config.photos.root=build/figures/scenes \
	    --data=build/figures/data --out=build/figures/claims --page=docs/claims.md
	$(PYTHON) -m tools.readme --data=build/figures/data build/figures/run-*

readme-figures: venv
	$(PYTHON) -m tools.readme

voc: venv
	PYTHON=$(PYTHON) bash launch/voc.sh

water: venv
	PYTHON=$(PYTHON) CONFIG=configs/river_water.py OUT=$${OUT:-build/water} bash launch/photos.sh "$(FOLDER)"

photos: venv
	PYTHON=$(PYTHON) bash launch/photos.sh "$(FOLDER)" $(if $(WORDS),"$(WORDS)")

test: venv
	$(PYTHON) -m pytest -n 2

lint: venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

venv: $(VENV)/stamp

$(VENV)/stamp: requirements.txt
	@echo "requirements.txt goes into $(VENV): 2.2 GB with PyTorch's CPU wheel, more with CUDA's libraries"
	bash .ci/venv $(VENV)
