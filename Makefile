# Everything a newcomer needs: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

comma := ,
NATIVE := CMakeLists.txt $(shell find csrc -type f -not -path 'csrc/tests/*')
CMAKE ?= $(shell command -v cmake || echo $(BIN)/cmake)

.PHONY: setup demo test lint cmake native sanitize wheel-check bench-distortion bench-fidelity bench-prediction bench-speed bench-encoding bench-constants bench-cpu clean

setup: $(STAMP)

$(STAMP): pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $(STAMP)

cmake:
	test -x $(CMAKE) || { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); $(BIN)/pip install --quiet cmake; }

# the native library alone, for work on it: HIGGSX_LIBRARY=build/native/libhiggsx.so
native: cmake
	$(CMAKE) -S . -B build/native -DCMAKE_BUILD_TYPE=Release -DHIGGSX_WERROR=ON
	$(CMAKE) --build build/native --parallel

# the library on generated and hostile input, watched: addresses and undefined behaviour, then data races
WATCH := -O1 -g1 -fno-omit-frame-pointer
SANITIZE = $(CMAKE) -S . -B build/$(1) -DCMAKE_BUILD_TYPE=Debug -DHIGGSX_DRIVERS=ON -DHIGGSX_TIERS="$(2)" \
	-DCMAKE_CXX_FLAGS_DEBUG="$(WATCH) $(3)" && $(CMAKE) --build build/$(1) --parallel
sanitize: cmake
	$(call SANITIZE,asan,,-fsanitize=address$(comma)undefined -fno-sanitize-recover=all)
	ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 \
		build/asan/csrc/tests/drivers arguments 300 matrices 100 attention 30 programs 6 threads 20
	$(call SANITIZE,tsan,avx2,-fsanitize=thread)
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
		build/tsan/csrc/tests/drivers threads 500 programs 4 matrices 40 attention 10

wheel-check: setup
	$(BIN)/pip install --quiet build auditwheel
	$(BIN)/python tests/wheel_check.py

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

bench-prediction: setup
	$(BIN)/python benchmarks/prediction.py stories260k
	$(BIN)/python benchmarks/prediction.py qwen2.5-coder-0.5b
	$(BIN)/python benchmarks/prediction.py qwen2.5-coder-1.5b --groups 0
	$(BIN)/python benchmarks/prediction.py --write

bench-speed: setup
	$(BIN)/pip install --quiet gguf
	$(BIN)/python benchmarks/compress_speed.py

bench-encoding: setup
	$(BIN)/python benchmarks/encoding.py

bench-constants: setup
	$(BIN)/python benchmarks/constants.py

# half an hour of conversions at the first run, then about half an hour of rounds; the machine must be idle
bench-cpu: setup
	TORCH="$(TORCH)" $(BIN)/python benchmarks/cpu_peers.py
	$(BIN)/python benchmarks/cpu_peers.py --write

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
