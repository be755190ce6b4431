// Builds the loop IR of one fused unit.
#ifndef FRAMEJIT_BACKENDS_NATIVE_KERNEL_LOWERING_H_
#define FRAMEJIT_BACKENDS_NATIVE_KERNEL_LOWERING_H_

#include <vector>

#include "absl/status/statusor.h"
#include "backends/native/fusion.h"

namespace framejit::native {

struct LoweredKernel {
  loop::Kernel kernel;
  std::vector<ValueId> buffers;  // the graph value at each buffer of the kernel; written ones come last
  int64_t bytes = 0;             // read and written, each value once
};

// Values that must lie in memory: read by another unit, returned, or written to an input. By ValueId.
std::vector<bool> StoredValues(const GraphFacts& facts, const FusionResult& fusion);

// `segment`: the first of a unit that has some, and `segments` how many, all of the same length: each element of the
// kernel's domain stands for one of each.
absl::StatusOr<LoweredKernel> LowerKernel(const GraphFacts& facts, const FusionResult& fusion, const Unit& unit,
                                          const std::vector<bool>& stored, int segment = -1, int segments = 1);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_KERNEL_LOWERING_H_
