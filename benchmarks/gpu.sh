#!/bin/sh
# One call on a machine with a GPU: builds, runs the tests of the CUDA backend (those of the kernels under
# compute-sanitizer, too) and the benchmarks, and writes a table of what came out to $OUT/gpu.txt.
# usage: benchmarks/gpu.sh [--no-build] [--no-tests] [--no-inductor]
set -u
cd "$(dirname "$0")/.." || exit 1
out=${OUT:-build/device-logs}
table=$out/gpu.txt
inductor='' build=build tests='gpu-tests memcheck'
for option; do
  case $option in
    --no-build) build='' ;;
    --no-tests) tests='' ;;
    --no-inductor) inductor=--no-inductor ;;
    *) echo "usage: benchmarks/gpu.sh [--no-build] [--no-tests] [--no-inductor]" >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
FRAMEJIT_BENCHMARK_OPTIONS=$inductor OUT=$out sh tools/device.sh $build $tests gpu-bench >"$table" 2>&1
status=$?
cat "$table"
exit $status
