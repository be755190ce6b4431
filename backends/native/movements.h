// Operators that only move elements, in terms of views, concatenations and copies, which kernels fold into what reads
// and makes them.
#ifndef FRAMEJIT_BACKENDS_NATIVE_MOVEMENTS_H_
#define FRAMEJIT_BACKENDS_NATIVE_MOVEMENTS_H_

#include "graph/graph.h"

namespace framejit::native {

// stack, roll, repeat, pixel_shuffle, pixel_unshuffle, and padding of one dimension by a constant.
void SplitMovements(Graph& graph);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_MOVEMENTS_H_
