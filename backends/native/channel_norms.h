// Takes batch norms in training, their gradients, and group norms apart into sums and pointwise operators, so that they
// fuse with what is around them.
#ifndef FRAMEJIT_BACKENDS_NATIVE_CHANNEL_NORMS_H_
#define FRAMEJIT_BACKENDS_NATIVE_CHANNEL_NORMS_H_

#include "graph/graph.h"

namespace framejit::native {

// Of one floating-point type throughout, on the CPU. Statistics are computed in double precision, as ATen's are there.
void SplitChannelNorms(Graph& graph);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_CHANNEL_NORMS_H_
