// The `cuda` backend: as `cpu`, with kernels for NVIDIA GPUs. What lies on another device, and everything where kernels
// cannot be compiled, goes through ATen.
#ifndef FRAMEJIT_BACKENDS_CUDA_CUDA_BACKEND_H_
#define FRAMEJIT_BACKENDS_CUDA_CUDA_BACKEND_H_

#include <memory>

#include "backends/backend.h"

namespace framejit {

std::shared_ptr<Backend> MakeCudaBackend();

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_CUDA_CUDA_BACKEND_H_
