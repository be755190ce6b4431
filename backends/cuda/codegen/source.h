// CUDA C++ of loop IR kernels. The text is complete: it includes nothing, so that NVRTC needs no headers.
//
// Precision: the types of the IR (bf16 and f16 are loaded, stored and cast, nothing else), CUDA's accurate functions,
// and no contraction of products and sums that the IR keeps apart (nvrtc.h gives the options). A sum is added per
// thread, then as a tree: the same result on every run.
#ifndef FRAMEJIT_BACKENDS_CUDA_CODEGEN_SOURCE_H_
#define FRAMEJIT_BACKENDS_CUDA_CODEGEN_SOURCE_H_

#include <string>

#include "backends/cuda/codegen/launch_plan.h"
#include "backends/loop/loop_ir.h"

namespace framejit::cuda {

struct KernelSource {
  std::string entry;  // name of the __global__ function; its parameters are one pointer per buffer, in order, and
                      // then the open numbers: int, or long long where offsets are of 64 bits
  std::string text;
};

// The kernel is canonical, and closed, or opened at PlacesOf() the plan, which is its own.
KernelSource GenerateSource(const loop::Kernel& kernel, const LaunchPlan& plan);

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CODEGEN_SOURCE_H_
