# make demo       install what is missing, build, run examples/semantic_search.py (ARGS are passed to it)
# make test       build and run the tests (under 20 minutes on two cores, from scratch)
# make test-all   the same and the long ones: every interpreter, sanitizers, sweeps, fuzzing
# make build | lint | format | clean
# Every target may be run again at any time; what is done already is not done twice.
#
# PYTHON: the interpreter the virtual environment is made from.  VENV: where it is made.  JOBS: parallel compilers.
# TORCH_SPEC: what pip is to install for torch, e.g. TORCH_SPEC=torch==2.14.0.  ARGS: passed to the demo.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
BUILD := build/release
BIN := $(VENV)/bin
RUN := env PYTHONPATH=$(CURDIR) HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
CONFIGURE := -DPython3_EXECUTABLE=$(abspath $(BIN)/python)
# A clone in another folder finds what an earlier one compiled; torch's headers come by a precompiled one.
export CCACHE_BASEDIR ?= $(CURDIR)
export CCACHE_NOHASHDIR ?= 1
export CCACHE_SLOPPINESS ?= pch_defines,time_macros,include_file_mtime,include_file_ctime

.DEFAULT_GOAL := test
.PHONY: demo test test-all test-asan test-interpreters build build-tests lint format clean demo-environment test-environment

demo: demo-environment
	@$(MAKE) --no-print-directory build
	@$(RUN) $(BIN)/python examples/semantic_search.py $(ARGS)

test: test-environment
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory build-tests
	@tools/run_tests.sh $(BIN)/python $(BUILD)

test-all: test-environment
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory build-tests
	@FRAMEJIT_LONG_TESTS=1 tools/run_tests.sh $(BIN)/python $(BUILD)
	@$(MAKE) --no-print-directory test-interpreters
	@$(MAKE) --no-print-directory test-asan

# Only the extension; a quarter of the time of the tests.
build: $(BUILD)/build.ninja
	@cmake --build $(BUILD) --parallel $(JOBS) --target framejit_extension
	@cmake --install $(BUILD) --component python --prefix $(CURDIR) >/dev/null

build-tests: $(BUILD)/build.ninja
	@cmake --build $(BUILD) --parallel $(JOBS)
	@cmake --install $(BUILD) --component python --prefix $(CURDIR) >/dev/null

# Another interpreter or torch means another configuration.
$(BUILD)/build.ninja: CMakePresets.json $(VENV)/framejit.stamp
	@mkdir -p $(BUILD) && rm -f $(BUILD)/CMakeCache.txt
	@cmake --preset release $(CONFIGURE) >$(BUILD).log || { cat $(BUILD).log; exit 1; }

$(VENV)/framejit.stamp:
	@$(MAKE) --no-print-directory demo-environment

# What needs no torch (bytecode, hook, kernels), for every interpreter found besides the environment's.
test-interpreters:
	@tools/test_interpreters.sh $(JOBS)

test-asan:
	@cmake --preset asan $(CONFIGURE)
	@cmake --build build/asan --parallel $(JOBS)
	@ctest --preset asan

lint:
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/python tools/lint_cpp.py

format:
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix --quiet . ; git ls-files '*.cc' '*.h' | xargs $(BIN)/clang-format -i

demo-environment:
	@tools/system_packages.sh $(PYTHON)
	@$(PYTHON) tools/setup_environment.py $(VENV) demo

test-environment:
	@tools/system_packages.sh $(PYTHON)
	@$(PYTHON) tools/setup_environment.py $(VENV) test

clean:
	rm -rf build framejit/_C*.so dist .pytest_cache .ruff_cache
