// Captures into torch's CUDA graphs, which know torch's memory pools and random numbers. Reached through Python, since
// that is where every build of torch has them.
#ifndef FRAMEJIT_BACKENDS_CUDA_TORCH_LAUNCH_DEVICE_H_
#define FRAMEJIT_BACKENDS_CUDA_TORCH_LAUNCH_DEVICE_H_

#include "backends/cuda/launch_device.h"

namespace framejit::cuda {

const LaunchDevice& TorchLaunchDevice();

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_TORCH_LAUNCH_DEVICE_H_
