# Every target sets up what it needs in .venv by itself; a second run starts at once.
# The stamps lie inside .venv, so deleting that folder starts over. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-warn-conflicts -c constraints.txt
PACKAGES := torch torchvision numpy scipy shapely pillow opencv-python-headless matplotlib pycocotools fvcore iopath omegaconf \
    hydra-core yacs tabulate cloudpickle tqdm tensorboard protobuf termcolor black packaging setuptools ninja safetensors pytest
# Detectron2 in the package index: pure Python, but its wheel is tagged for one Python and asks for numpy < 2, as
# panopticapi does; both work with numpy 2, so they are unpacked without their requirements.
UNPACKED := --no-deps --only-binary=:all: --python-version 3.10 --implementation cp --abi none --upgrade \
    --target $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") sal-detectron2 panopticapi-lite

.PHONY: demo test lint cuda asan model-zoo

demo: $(VENV)/.built
	$(BIN)/python -m pentamask.tools.train_demo

test: $(VENV)/.built
	$(BIN)/python -m pytest -rfEs

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Needs nvcc, but no GPU; does nothing if the sources are unchanged.
cuda: $(VENV)/.packages
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python dev/compile_cuda.py

# The operators with hostile arguments under AddressSanitizer.
asan: $(VENV)/.built
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python dev/run_asan.py

model-zoo: $(VENV)/.built
	$(BIN)/python -m pentamask.tools.list_models > MODEL_ZOO.md

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.lint: $(VENV)/.venv constraints.txt
	@$(PIP) ruff
	@touch $@

$(VENV)/.packages: $(VENV)/.venv constraints.txt
	@echo "Installing PyTorch, Detectron2 and their requirements in $(VENV): this takes some minutes, once."
	@$(PIP) $(PACKAGES)
	@$(PIP) $(UNPACKED)
	@rm -f $(VENV)/lib/python*/site-packages/detectron2/_C*.so
	@touch $@

$(VENV)/.built: $(VENV)/.packages setup.py pyproject.toml $(shell find csrc -type f ! -name '*.py')
	@echo "Building the operators and installing pentamask in $(VENV)."
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --no-deps -e .
	@touch $@
