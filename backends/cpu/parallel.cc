#include "backends/cpu/parallel.h"

#include <ATen/Parallel.h>

namespace framejit::cpu {

void RunParallel(const CompiledKernel& kernel, void* const* buffers, int64_t grain) {
  at::parallel_for(0, kernel.units(), grain, [&](int64_t begin, int64_t end) { kernel.Run(buffers, begin, end); });
}

}  // namespace framejit::cpu
