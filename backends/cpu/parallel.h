// Runs a kernel on torch's thread pool. Apart from the other sources because at::parallel_for wants OpenMP's flags.
#ifndef FRAMEJIT_BACKENDS_CPU_PARALLEL_H_
#define FRAMEJIT_BACKENDS_CPU_PARALLEL_H_

#include <cstdint>

#include "backends/cpu/codegen/kernel_compiler.h"

namespace framejit::cpu {

// Each thread takes at least `grain` units.
void RunParallel(const CompiledKernel& kernel, void* const* buffers, int64_t grain);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_PARALLEL_H_
