# Every target sets up what it needs in .venv by itself; a second run starts at once.
# The stamps lie inside .venv, so deleting that folder starts over. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-warn-conflicts -c $(CONSTRAINTS)
PACKAGES := torch torchvision numpy scipy shapely pillow opencv-python-headless matplotlib pycocotools fvcore iopath omegaconf \
    hydra-core yacs tabulate cloudpickle tqdm tensorboard protobuf termcolor black packaging 'setuptools>=70.1' ninja safetensors pytest
# What the extras of setup.py bring, and what tests them.
OPTIONAL := onnx onnxscript onnxruntime openvino gradio jinja2 mkdocs 'mkdocstrings[python]' hotcoco \
    nbclient ipykernel playwright
# Detectron2 in the package index: pure Python, but its wheel is tagged for one Python and asks for numpy < 2, as
# panopticapi does; both work with numpy 2, so they are unpacked without their requirements.
UNPACKED := --no-deps --only-binary=:all: --python-version 3.10 --implementation cp --abi none --upgrade \
    --target $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") sal-detectron2 panopticapi-lite

# Threads that wait sleep soon, whatever imports torch first; see projects/pentamask/__init__.py.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 1000

.PHONY: demo test lint cuda asan docs model-zoo versions

demo: $(VENV)/.built
	$(BIN)/python -m pentamask.tools.train_demo

test: $(VENV)/.built $(VENV)/.browser
	$(BIN)/python -m pytest -rfEs

lint: $(VENV)/.lint $(VENV)/.packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Needs nvcc, but no GPU; does nothing if the sources are unchanged.
cuda: $(VENV)/.packages
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python dev/compile_cuda.py

# The operators with hostile arguments under AddressSanitizer.
asan: $(VENV)/.built
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python dev/run_asan.py

# The pages of docs/ in output/site; a warning, as of a dead link, is an error.
docs: $(VENV)/.built
	$(BIN)/mkdocs build --strict

model-zoo: $(VENV)/.built
	$(BIN)/python -m pentamask.tools.list_models > MODEL_ZOO.md
	$(BIN)/python -m pentamask.tools.list_models README.md projects/pentamask/*/README.md

# Installs, tests and trains with other versions of Python and PyTorch, each in an environment of its own: see dev/versions.py.
versions: $(VENV)/.packages
	$(BIN)/python dev/versions.py

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.lint: $(VENV)/.venv $(CONSTRAINTS)
	@$(PIP) ruff mypy
	@touch $@

$(VENV)/.packages: $(VENV)/.venv $(CONSTRAINTS)
	@echo "Installing PyTorch, Detectron2 and their requirements in $(VENV): this takes some minutes, once."
	@$(PIP) $(PACKAGES) $(OPTIONAL)
	@$(PIP) $(UNPACKED)
	@rm -f $(VENV)/lib/python*/site-packages/detectron2/_C*.so
	@touch $@

# The tests of pages need Debian's Chromium, or any that is on the PATH as `chromium`.
$(VENV)/.browser: $(VENV)/.venv
	@command -v chromium > /dev/null || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium fonts-dejavu-core > /dev/null) || echo "NOTICE: no chromium, so the tests of pages will fail."
	@touch $@

$(VENV)/.built: $(VENV)/.packages setup.py pyproject.toml $(shell find csrc -type f ! -name '*.md')
	@echo "Building the operators and installing pentamask in $(VENV)."
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --no-deps -e .
	@touch $@
