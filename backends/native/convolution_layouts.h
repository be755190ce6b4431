// Convolutions of images compute channels-last where oneDNN is faster so.
#ifndef FRAMEJIT_BACKENDS_NATIVE_CONVOLUTION_LAYOUTS_H_
#define FRAMEJIT_BACKENDS_NATIVE_CONVOLUTION_LAYOUTS_H_

#include "graph/graph.h"

namespace framejit::native {

// Float32 convolutions on the CPU whose results only the graph sees get channels-last inputs and results where that is
// worthwhile, and what follows them lies so too. No result that the caller gets changes its layout.
void LayOutConvolutions(Graph& graph);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_CONVOLUTION_LAYOUTS_H_
