// Pointwise operators that have nothing to fuse with and that ATen has faster loops for.
#ifndef FRAMEJIT_BACKENDS_NATIVE_SINGLE_OPERATORS_H_
#define FRAMEJIT_BACKENDS_NATIVE_SINGLE_OPERATORS_H_

#include <cstddef>
#include <vector>

#include "backends/native/emitter.h"

namespace framejit::native {

// Memory that targets on the CPU ask for in huge pages, which pays more than ATen's loops do; its allocations do not.
inline constexpr size_t kHugePagedBytes = size_t{16} << 20;

// On the CPU: those over bytes and many over 16 bits, which our vectors hold in 32 bits each, some functions, and those
// that wait for memory alone (benchmarks/single_operators.py). `kinds`: by node.
std::vector<int32_t> FasterInAten(const GraphFacts& facts, const std::vector<NodeKind>& kinds);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_SINGLE_OPERATORS_H_
