#!/bin/sh
# Runs the C++ tests and the Python tests; both run even where the first fails, and their summaries come last.
# usage: run_tests.sh PYTHON BUILD_DIR
set -u
python=$1
build=$2
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH=$PWD
cpp_log=$build/ctest.log
python_log=$build/pytest.log

ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$(nproc)" >"$cpp_log" 2>&1
cpp_status=$?
[ $cpp_status -eq 0 ] || cat "$cpp_log"

"$python" -m pytest -q tests/python >"$python_log" 2>&1
python_status=$?
[ $python_status -eq 0 ] || cat "$python_log"

grep -E '^[0-9]+% tests passed' "$cpp_log"
tail -n 1 "$python_log"
[ $cpp_status -eq 0 ] && [ $python_status -eq 0 ]
