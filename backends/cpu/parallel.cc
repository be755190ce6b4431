#include "backends/cpu/parallel.h"

#include <ATen/Parallel.h>

namespace framejit::cpu {

void ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> body) {
  at::parallel_for(0, count, grain, body);
}

void RunParallel(const CompiledKernel& kernel, void* const* buffers, int64_t grain) {
  ParallelFor(kernel.units(), grain, [&](int64_t begin, int64_t end) { kernel.Run(buffers, begin, end); });
}

}  // namespace framejit::cpu
