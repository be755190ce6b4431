// Runs a kernel on torch's thread pool. Apart from the other sources because at::parallel_for wants OpenMP's flags.
#ifndef FRAMEJIT_BACKENDS_CPU_PARALLEL_H_
#define FRAMEJIT_BACKENDS_CPU_PARALLEL_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "backends/cpu/codegen/kernel_compiler.h"

namespace framejit::cpu {

// Less work than this is not worth waking a thread for.
inline constexpr double kThreadNanoseconds = 8000;

// Ranges of [0, count), of `grain` or more, on torch's threads.
void ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> body);

// Each thread takes at least `grain` units.
void RunParallel(const CompiledKernel& kernel, void* const* buffers, int64_t grain);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_PARALLEL_H_
