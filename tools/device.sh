#!/bin/sh
# Builds, tests and benchmarks on a machine with a GPU and no network: it has Python, torch, a compiler, cmake, ninja,
# pybind11, pytest and transformers; asmjit, abseil and GoogleTest come as Debian packages in .debs (git-ignored).
# One call does everything; logs go to $OUT.
# usage: tools/device.sh [build] [test] [bench] [asan] [replay] [gpu] [gpu-capture] [memcheck]
# (default: the first four)
# test: the suite without the GPU (FRAMEJIT_LONG_TESTS=1: its long tests, too). replay: it again, under the replay check.
# gpu: gpu-tests and gpu-bench, the tests and the benchmarks of the CUDA backend. gpu-capture: of these tests, those of
# capture with the GPU as the default device. memcheck: the backend's kernels under compute-sanitizer.
set -u
out=${OUT:-build/device-logs}
what=${*:-build test bench asan}
case " $what " in *' gpu '*) what="$what gpu-tests gpu-bench" ;; esac
debs=/tmp/framejit-debs
lib=$debs/usr/lib/x86_64-linux-gnu
mkdir -p "$out" $debs
for deb in .debs/*.deb; do dpkg -x "$deb" $debs; done
export LD_LIBRARY_PATH="$lib" LIBRARY_PATH="$lib" CPLUS_INCLUDE_PATH="$debs/usr/include" PYTHONPATH="$PWD"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
status=0

configure() {
  cmake -S . -B "$1" -G Ninja -DCMAKE_PREFIX_PATH=$debs/usr -DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu \
    -DPython3_EXECUTABLE="$(command -v python3)" $2
}

case $what in *build*)
  configure build/device "-DCMAKE_BUILD_TYPE=Release -DFRAMEJIT_BUILD_TESTS=OFF" >"$out/build.log" 2>&1 &&
    cmake --build build/device --parallel --target framejit_extension >>"$out/build.log" 2>&1 &&
    cmake --install build/device --component python --prefix . >>"$out/build.log" 2>&1 || { tail -30 "$out/build.log"; exit 1; }
esac
# The test files that stdin names, side by side on all cores. by_file NAME [pytest's arguments...]
by_file() {
  name=$1
  shift
  sort -R | OMP_NUM_THREADS=2 xargs -P "$(nproc)" -I{} sh -c '
      file=$1 log=$2.$(echo $1 | tr / -)
      shift 2
      timeout 500 python3 -m pytest -q -o faulthandler_timeout=120 $file "$@" >$log 2>&1
      code=$?
      [ $code -eq 0 ] || [ $code -eq 5 ] || echo "FAILED $file: exit $code"
    ' run {} "$out/$name" "$@" >"$out/$name.failed"
  cat "$out/$name".tests-* >"$out/$name.log" && rm -f "$out/$name".tests-*
  grep -hE '^(FAILED|ERROR|E  )|Fatal' "$out/$name.log" "$out/$name.failed" | cut -c1-220 | tail -40
  grep -oE '[0-9]+ (passed|failed|errors?)\b' "$out/$name.log" |
    awk -v name="$name" '{ count[$2] += $1 } END { for (what in count) print name ": " count[what] " " what }'
  [ ! -s "$out/$name.failed" ]
}
# The suite without the GPU. suite NAME [pytest's arguments...]
suite() (
  export CUDA_VISIBLE_DEVICES=''
  find tests/python -name 'test_*.py' | grep -vE '/(demo|interpreters)/' | by_file "$@"
)

case " $what " in *' test '*) suite test || status=1 ;; esac
case " $what " in *' replay '*) suite replay --check replay || status=1 ;; esac
case " $what " in *' bench '*)
  for script in call_overhead first_call kernels models breaks plain_python; do
    timeout 300 python3 -m benchmarks.$script --check >"$out/$script.log" 2>&1
    code=$?
    echo "benchmarks.$script --check: exit $code"
    tail -40 "$out/$script.log" | cut -c1-200
    [ $code -eq 0 ] || status=1
  done
esac
case $what in *gpu-tests*)
  # Of those that run on each device, the GPU's.
  timeout 400 python3 -m pytest -q --maxfail=40 -o faulthandler_timeout=60 -k "cuda or graph_launches" tests/python/cuda \
    tests/python/kernels tests/python/training/test_layers.py tests/python/training/test_operators.py \
    tests/python/training/test_derivatives.py tests/python/training/test_models.py >"$out/gpu-tests.log" 2>&1 || status=1
  grep -E '^(FAILED|ERROR|E  )|passed|failed|Fatal' "$out/gpu-tests.log" | cut -c1-220 | tail -60
esac
# Those of capture once more, with the GPU as the default device.
case $what in *gpu-tests* | *gpu-capture*)
  find tests/python/breaks tests/python/capture tests/python/effects tests/python/entry tests/python/guards \
    tests/python/semantics tests/python/torch_surface -name 'test_*.py' | by_file gpu-capture --device cuda || status=1
esac
case $what in *gpu-bench*)
  for script in gpu_kernels gpu_models; do
    timeout 400 python3 -m benchmarks.$script ${FRAMEJIT_BENCHMARK_OPTIONS:-} >"$out/$script.log" 2>&1 || status=1
    cut -c1-200 "$out/$script.log" | tail -40
  done
esac
case $what in *memcheck*)
  for tool in memcheck racecheck; do
    timeout 250 compute-sanitizer --tool $tool --error-exitcode 9 python3 -m pytest -q -p no:faulthandler \
      tests/python/cuda -k "kernels_run or misaligned_views or matmul or transposes or kept_by_later" >"$out/$tool.log" 2>&1 || status=1
    echo "compute-sanitizer $tool:"
    grep -E '=========|passed|failed' "$out/$tool.log" | cut -c1-200 | tail -8
  done
esac
# Without the GPU: its driver wants addresses that the sanitizer takes.
case $what in *asan*)
  configure build/device-asan "--preset asan -B build/device-asan" >"$out/asan-build.log" 2>&1 &&
    cmake --build build/device-asan --parallel >>"$out/asan-build.log" 2>&1 || { tail -30 "$out/asan-build.log"; exit 1; }
  CUDA_VISIBLE_DEVICES='' ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    timeout 300 ctest --test-dir build/device-asan --output-on-failure --parallel 16 >"$out/asan.log" 2>&1 || status=1
  grep -E 'Test +#|tests passed|ERROR: AddressSanitizer|runtime error|^FAILED|Error' "$out/asan.log" | cut -c1-200 | tail -40
esac
exit $status
