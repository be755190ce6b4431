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
dynamic_log=$build/pytest-dynamic.log

# Nothing may hang: a test that takes too long ends with what its threads were doing. The long sweeps over all floats
# take minutes each.
cpp_limit=900
limit=1800
if [ "${FRAMEJIT_LONG_TESTS:-0}" != 0 ]; then
  cpp_limit=5400
  limit=10800
fi
ctest --test-dir "$build" --output-on-failure --no-tests=error --timeout $cpp_limit --parallel "$(nproc)" >"$cpp_log" 2>&1
cpp_status=$?
[ $cpp_status -eq 0 ] || cat "$cpp_log"

timeout "$limit" "$python" -m pytest -q -o faulthandler_timeout=600 tests/python >"$python_log" 2>&1 </dev/null
python_status=$?
[ $python_status -eq 0 ] || cat "$python_log"

# Gradients and the CUDA backend once more, with sizes that vary.
timeout "$limit" "$python" -m pytest -q -o faulthandler_timeout=600 --dynamic tests/python/training tests/python/cuda \
  >"$dynamic_log" 2>&1 </dev/null
dynamic_status=$?
[ $dynamic_status -eq 0 ] || cat "$dynamic_log"

grep -E '^[0-9]+% tests passed' "$cpp_log"
tail -n 1 "$python_log"
tail -n 1 "$dynamic_log"
[ $cpp_status -eq 0 ] && [ $python_status -eq 0 ] && [ $dynamic_status -eq 0 ]
