// The gradients of layer norm's parameters as sums over the batch, which fuse with what is around them; what is left of
// the operator is the gradient of its input. Not a pass of the pipeline: the sums round otherwise than ATen's.
#ifndef FRAMEJIT_BACKENDS_NATIVE_NORM_GRADIENTS_H_
#define FRAMEJIT_BACKENDS_NATIVE_NORM_GRADIENTS_H_

#include "graph/graph.h"

namespace framejit::native {

void SplitNormGradients(Graph& graph);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_NORM_GRADIENTS_H_
