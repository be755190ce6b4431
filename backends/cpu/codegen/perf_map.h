// Names of kernels for profilers: with FRAMEJIT_PERF_MAP=1, /tmp/perf-PID.map says where each lies, as `perf` reads it.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_PERF_MAP_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_PERF_MAP_H_

#include <cstddef>
#include <string>

#include "backends/loop/loop_ir.h"

namespace framejit::cpu {

// "framejit_mul_reduce_sum_rsqrt_0123abcd": the operators, and a hash of the kernel's text.
std::string KernelName(const loop::Kernel& kernel, const std::string& text);

void AddToPerfMap(const void* code, size_t bytes, const std::string& name);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_PERF_MAP_H_
