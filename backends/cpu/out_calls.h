// Direct calls of ATen's CPU kernels, and a few of our own, that write into planned memory.
#ifndef FRAMEJIT_BACKENDS_CPU_OUT_CALLS_H_
#define FRAMEJIT_BACKENDS_CPU_OUT_CALLS_H_

#include "backends/native/plan.h"

namespace framejit::cpu {

native::OutCall FindOutCall(const Graph& graph, const Node& node);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_OUT_CALLS_H_
