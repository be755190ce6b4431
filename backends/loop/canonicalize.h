// Rewrites of whole kernels that keep their meaning and make them cheaper to run.
#ifndef FRAMEJIT_BACKENDS_LOOP_CANONICALIZE_H_
#define FRAMEJIT_BACKENDS_LOOP_CANONICALIZE_H_

#include "backends/loop/loop_ir.h"

namespace framejit::loop {

// Dimension-level: drops row dimensions of size one, orders row dimensions (and, without reductions, the inner one) so
// that the fastest-varying is the one most accesses walk contiguously, and merges neighbours whose strides allow it, so
// that a contiguous N-d pointwise kernel becomes one dimension. Also removes nodes no store needs.
// The code generators expect, and do not check for, kernels after this. Where nothing else was done, dimensions that
// transposed loads walk are cut into tiles; `tiles`: false leaves that to the code generator.
void Canonicalize(Kernel& kernel, bool tiles = true);

}  // namespace framejit::loop

#endif  // FRAMEJIT_BACKENDS_LOOP_CANONICALIZE_H_
