// A CUDA device as a target of native graphs: kernels from NVRTC, launched on torch's current stream; memory from
// torch's caching allocator.
#ifndef FRAMEJIT_BACKENDS_CUDA_CUDA_TARGET_H_
#define FRAMEJIT_BACKENDS_CUDA_CUDA_TARGET_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backends/cuda/codegen/nvrtc.h"
#include "backends/native/target.h"

namespace framejit::cuda {

// That of a device, never destroyed. Without a driver, without NVRTC, or where NVRTC does not know the device: why.
absl::StatusOr<const native::Target*> CudaTarget(c10::Device device);

// torch's current stream of the device, as the driver knows it.
void* NativeStream(c10::Device device);

// For tests: compiles for the architecture and cannot run what it compiled.
std::unique_ptr<const native::Target> MakeCompileOnlyTarget(c10::Device device, Architecture architecture);

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CUDA_TARGET_H_
