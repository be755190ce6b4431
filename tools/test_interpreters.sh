#!/bin/sh
# Builds and tests what needs no torch (bytecode, frame access, kernels) for each supported interpreter on the machine.
# FRAMEJIT_LONG_TESTS=1: with all modules of CPython's own tests that check_identity.py lists, not some. The kernels' long
# tests have nothing to do with the interpreter: those of the main build do.
# usage: test_interpreters.sh JOBS
set -eu
jobs=$1
found=0
for minor in 11 12 13; do
  python=
  for candidate in "python3.$minor" "$HOME/.pyenv/versions/3.$minor".*/bin/python3; do
    if "$candidate" -c '' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  [ -n "$python" ] || continue
  build=build/python3.$minor
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFRAMEJIT_BUILD_TESTS=ON -DFRAMEJIT_WITH_TORCH=OFF \
    -DFRAMEJIT_BUILD_CHECK=ON -DPython3_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" >/dev/null
  cmake --build "$build" --parallel "$jobs" >/dev/null
  echo "framejit: testing with $("$python" -V)"
  ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$jobs" --exclude-regex '^kernels_test'
  env -u FRAMEJIT_LONG_TESTS ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$jobs" -R '^kernels_test'
  found=$((found + 1))
done
echo "framejit: tested $found interpreters"
[ "$found" -gt 0 ]
