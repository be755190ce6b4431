// How long kernels take on their device, for choices that the cost model is not sure of.
#ifndef FRAMEJIT_BACKENDS_CUDA_MEASURE_H_
#define FRAMEJIT_BACKENDS_CUDA_MEASURE_H_

#include <c10/core/Device.h>

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backends/loop/loop_ir.h"
#include "backends/native/plan.h"

namespace framejit::cuda {

// By code, each of them for `kernel`: the least microseconds of one launch among others of the same code, over several
// rounds in turn, on zeros. Waits for the device. Unavailable: the device's memory is full, or the current stream
// captures a CUDA graph.
absl::StatusOr<std::vector<double>> MeasureMicroseconds(c10::Device device, const loop::Kernel& kernel,
                                                        absl::Span<const native::KernelCode* const> codes);

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_MEASURE_H_
