// The `cpu` backend: fuses pointwise operators and row reductions into machine code, calls ATen for the rest, and keeps
// intermediates in one planned block of memory.
#ifndef FRAMEJIT_BACKENDS_CPU_CPU_BACKEND_H_
#define FRAMEJIT_BACKENDS_CPU_CPU_BACKEND_H_

#include <memory>

#include "backends/backend.h"

namespace framejit {

std::shared_ptr<Backend> MakeCpuBackend();

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_CPU_CPU_BACKEND_H_
