#include "backends/cuda/measure.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "backends/cuda/codegen/driver.h"
#include "backends/cuda/cuda_target.h"

namespace framejit::cuda {
namespace {

constexpr int kRounds = 5;
constexpr int kMostLaunches = 20;
constexpr double kWantedMicroseconds = 200;  // of the launches of a round
// The device writes this while the launches are queued: short kernels then follow each other as in a CUDA graph.
constexpr size_t kBusyBytes = size_t{256} << 20;

class Measurement {
 public:
  Measurement(c10::Device device, const loop::Kernel& kernel)
      : impl_(c10::DeviceType::CUDA), stream_(impl_.getStream(device)), queue_(NativeStream(device)) {
    const std::vector<int64_t> elements = loop::BufferElements(kernel);
    for (size_t b = 0; b < elements.size(); ++b) {
      AddZeros(static_cast<size_t>(elements[b] * loop::DTypeBytes(kernel.buffers[b].dtype)));
      buffers_.push_back(memory_.back().get());
    }
    AddZeros(kBusyBytes);
  }

  double MicrosecondsOf(const native::KernelCode& code, int launches) {
    c10::Event begin(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT);
    c10::Event end(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT);
    if (launches > 1) Clear(memory_.back().get(), kBusyBytes);
    begin.record(stream_);
    for (int i = 0; i < launches; ++i) code.Run(buffers_.data(), queue_);
    end.record(stream_);
    end.synchronize();
    return begin.elapsedTime(end) * 1e3 / launches;
  }

 private:
  void AddZeros(size_t bytes) {
    memory_.push_back(at::detail::getCUDAHooks().getCUDADeviceAllocator()->allocate(std::max<size_t>(1, bytes)));
    Clear(memory_.back().get(), bytes);
  }
  void Clear(void* data, size_t bytes) {
    const absl::Status status = ZeroOnDevice(data, bytes, queue_);
    TORCH_CHECK(status.ok(), "CUDA error: ", std::string(status.message()));
  }

  const c10::impl::VirtualGuardImpl impl_;
  const c10::Stream stream_;
  void* const queue_;
  std::vector<c10::DataPtr> memory_;
  std::vector<void*> buffers_;
};

}  // namespace

absl::StatusOr<std::vector<double>> MeasureMicroseconds(c10::Device device, const loop::Kernel& kernel,
                                                        absl::Span<const native::KernelCode* const> codes) {
  const c10::DeviceGuard guard(device);
  if (IsCapturing(NativeStream(device))) return absl::UnavailableError("the stream captures a CUDA graph");
  try {
    Measurement measurement(device, kernel);
    std::vector<double> least(codes.size(), std::numeric_limits<double>::infinity());
    measurement.MicrosecondsOf(*codes[0], 1);  // what the first launch of all takes is not the kernel's
    const double single = std::max(1.0, measurement.MicrosecondsOf(*codes[0], 1));
    const int launches = static_cast<int>(std::clamp(kWantedMicroseconds / single, 2.0, double{kMostLaunches}));
    for (int round = 0; round < kRounds; ++round) {
      for (size_t c = 0; c < codes.size(); ++c) {
        least[c] = std::min(least[c], measurement.MicrosecondsOf(*codes[c], launches));
      }
    }
    return least;
  } catch (const c10::Error& error) {
    return absl::UnavailableError(error.what_without_backtrace());
  }
}

}  // namespace framejit::cuda
