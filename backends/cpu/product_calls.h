// Which matrix products of a graph run as code of our own instead of torch's libraries.
#ifndef FRAMEJIT_BACKENDS_CPU_PRODUCT_CALLS_H_
#define FRAMEJIT_BACKENDS_CPU_PRODUCT_CALLS_H_

#include "backends/native/plan.h"

namespace framejit::cpu {

// For mm, bmm, addmm and baddbmm of float32; no code where a library is as fast, or for what the code generator lacks.
native::DirectCall FindProduct(const Graph& graph, const Node& node);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_PRODUCT_CALLS_H_
