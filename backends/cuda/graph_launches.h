// Native graphs on a GPU that are launched as CUDA graphs where that is safe and, unless the program asks for it,
// faster.
#ifndef FRAMEJIT_BACKENDS_CUDA_GRAPH_LAUNCHES_H_
#define FRAMEJIT_BACKENDS_CUDA_GRAPH_LAUNCHES_H_

#include <memory>
#include <string>

#include "backends/cuda/launch_device.h"
#include "backends/native/executor.h"

namespace framejit::cuda {

// Why the plan's calls cannot be captured into a CUDA graph that does the same for other inputs of the same shapes;
// empty where nothing is known against it.
std::string WhyNotCapturable(const native::Plan& plan);

// `device` outlives what is returned.
std::unique_ptr<CompiledGraph> WithGraphLaunches(std::unique_ptr<native::NativeGraph> graph,
                                                 const LaunchDevice& device);

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_GRAPH_LAUNCHES_H_
