# make help lists the targets. Everything is installed into $(VENV) and runs with its Python.
#
#   make test PYTHON=python3.12                                     another Python (3.10 or newer) for a new environment
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"   PyTorch without CUDA
#   make test PYTEST_ARGS="tests/mixers -k seqnorm"                 some of the tests
#   make test-label PYTEST_ARGS="-k retina"                      bundles in MONAI Label, in an environment of its own

PYTHON      ?= python3
VENV        ?= .venv
VENV_LABEL  ?= .venv-label
PIP_ARGS    ?=
PYTEST_ARGS ?=
WORKERS     ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# Nothing from outside the environment: neither PYTHONPATH nor packages of the user.
export PYTHONPATH :=
export PYTHONNOUSERSITE := 1
# PyTorch's compiler reads its own sources in the locale's encoding.
export PYTHONUTF8 := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PY    := $(VENV)/bin/python
DEMO  := demo_output
NAME  := hippocampus_mri_segmentation
CONF  := bundles/$(NAME)/configs
# a case of the test split
SCAN  := $(DEMO)/data/Task04_Hippocampus/imagesTr/hippocampus_018.nii.gz

RUN_TESTS := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --maxprocesses 8

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv install install-label demo test test-slow test-label lint format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 15

venv: $(VENV)/.python  ## the empty virtual environment

install: $(VENV)/.installed-dev  ## the environment with this package (editable) and all that the tests need

demo: $(VENV)/.installed  ## phantom data, training, inference, evaluation, pictures: from nothing to a result in demo_output/
	rm -rf $(DEMO)
	$(PY) -m monai_ext data phantom task04_hippocampus --root $(DEMO)/data --cases 40
	$(PY) -m monai.bundle run training --dataset_dir $(DEMO)/data \
	    --config_file "['$(CONF)/train.json','$(CONF)/demo.json']"
	$(PY) -m monai.bundle run inference --dataset_dir $(SCAN) --output_dir $(DEMO)/inference \
	    --config_file $(CONF)/inference.json --model_path $(DEMO)/model.pt --network_def#feature_size 16
	$(PY) -m monai.bundle run evaluating --dataset_dir $(DEMO)/data --output_dir $(DEMO) \
	    --config_file "['$(CONF)/train.json','$(CONF)/evaluate.json','$(CONF)/demo.json']"

test: lint  ## ruff and the tests, but for those that take long
	$(RUN_TESTS) -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev  ## the tests that take long: every documented command, studies, compilation
	$(RUN_TESTS) -m slow $(PYTEST_ARGS)

install-label:  ## an environment .venv-label with MONAI Label, this package (editable) and what its tests need
	@$(MAKE) --no-print-directory VENV=$(VENV_LABEL) $(VENV_LABEL)/.installed-label

test-label: install-label  ## every bundle in a MONAI Label server: its tests are skipped by `make test`
	OMP_NUM_THREADS=1 $(VENV_LABEL)/bin/python -m pytest tests/label $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.installed-dev  ## let ruff repair and format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## remove the environment, the demo's output and what builds and tests leave behind
	rm -rf $(VENV) $(VENV_LABEL) $(DEMO) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find monai_ext tests bundles -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an environment is made, and the package installed, once; again when a file named here changes.
SETTINGS := setup.cfg pyproject.toml constraints.txt

$(VENV)/.installed: $(VENV)/.python $(SETTINGS)
	$(PY) -m pip install $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.python $(SETTINGS)
	$(PY) -m pip install $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-label: $(VENV)/.python $(SETTINGS) constraints-label.txt requirements-label.txt
	$(PY) -m pip install $(PIP_ARGS) -c constraints-label.txt -e ".[label]" hypothesis pytest
	$(PY) -m pip install $(PIP_ARGS) -c constraints-label.txt --no-deps -r requirements-label.txt
	@touch $@

$(VENV)/.python:
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "monai-ext needs Python 3.10 or newer, and there is no $(PYTHON): install it, or name another with make PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "monai-ext needs Python 3.10 or newer, and $(PYTHON) is $$("$(PYTHON)" -V 2>&1): name another with make PYTHON=python3.12." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv), or name another Python with make PYTHON=/path/to/python3." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@
