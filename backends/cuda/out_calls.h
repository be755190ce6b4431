// ATen's CUDA operators that write into planned memory.
#ifndef FRAMEJIT_BACKENDS_CUDA_OUT_CALLS_H_
#define FRAMEJIT_BACKENDS_CUDA_OUT_CALLS_H_

#include "backends/native/plan.h"

namespace framejit::cuda {

native::OutCall FindOutCall(const Graph& graph, const Node& node);

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_OUT_CALLS_H_
