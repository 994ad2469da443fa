# Everything a newcomer needs: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint bench-distortion bench-fidelity bench-speed bench-encoding bench-constants clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/python -m higgsx.demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-distortion: setup
	$(BIN)/python benchmarks/distortion.py

bench-fidelity: setup
	$(BIN)/python benchmarks/fidelity.py
	$(BIN)/python benchmarks/fidelity.py --write

bench-speed: setup
	$(BIN)/pip install --quiet gguf
	$(BIN)/python benchmarks/compress_speed.py

bench-encoding: setup
	$(BIN)/python benchmarks/encoding.py

bench-constants: setup
	$(BIN)/python benchmarks/constants.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
