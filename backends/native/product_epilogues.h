// Activations that cuBLASLt computes while it stores a product.
#ifndef FRAMEJIT_BACKENDS_NATIVE_PRODUCT_EPILOGUES_H_
#define FRAMEJIT_BACKENDS_NATIVE_PRODUCT_EPILOGUES_H_

#include "graph/graph.h"

namespace framejit::native {

// gelu(addmm(bias, a, b), "tanh") of bfloat16 or float16, also one that is spelt out, becomes one _addmm_activation,
// where nothing else reads the product. The sum is not rounded in between. (There is a relu as well; whether it keeps
// NaN was not measured.)
void FuseProductEpilogues(Graph& graph);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_PRODUCT_EPILOGUES_H_
