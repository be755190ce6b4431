// Pointwise operators that have nothing to fuse with and that ATen has faster loops for.
#ifndef FRAMEJIT_BACKENDS_NATIVE_SINGLE_OPERATORS_H_
#define FRAMEJIT_BACKENDS_NATIVE_SINGLE_OPERATORS_H_

#include <vector>

#include "backends/native/emitter.h"

namespace framejit::native {

// On the CPU: those over bytes, which our vectors hold in 32 bits each, and some functions
// (benchmarks/single_operators.py). `kinds`: by node.
std::vector<int32_t> FasterInAten(const GraphFacts& facts, const std::vector<NodeKind>& kinds);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_SINGLE_OPERATORS_H_
