// The CUDA driver, loaded at run time: modules and launches in the primary context of each device, which is torch's
// too.
#ifndef FRAMEJIT_BACKENDS_CUDA_CODEGEN_DRIVER_H_
#define FRAMEJIT_BACKENDS_CUDA_CODEGEN_DRIVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backends/cuda/codegen/nvrtc.h"

namespace framejit::cuda {

class DriverApi;

// Whether work on the stream goes into a CUDA graph instead of being run; true as well where the driver cannot say.
bool IsCapturing(void* stream);

// Copies within the device's memory, in the order of the stream. Returns before it has run.
absl::Status CopyOnDevice(void* to, const void* from, size_t bytes, void* stream);

// Writes zeros, likewise.
absl::Status ZeroOnDevice(void* data, size_t bytes, void* stream);

// What a kernel takes of the device.
struct Resources {
  int registers = 0;     // of a thread
  int local_bytes = 0;   // of a thread: what was spilled
  int shared_bytes = 0;  // of a block
};

// A kernel on a device. Its code stays loaded until the process ends: launches that have not run yet need it, and to
// wait for them would stop whoever lets go of a graph.
class LoadedKernel {
 public:
  LoadedKernel(const DriverApi& api, void* context, void* function)
      : api_(api), context_(context), function_(function) {}

  Resources resources() const;
  // `arguments`: the address of each parameter. Returns before the kernel has run.
  absl::Status Launch(int64_t blocks, int threads_x, int threads_y, void* stream, void** arguments) const;

 private:
  const DriverApi& api_;
  void* const context_;
  void* const function_;
};

// A device of the process, by its index for CUDA and torch. Thread-safe, never destroyed.
class Device {
 public:
  // Unavailable: no driver, or no such device; the message says which.
  static absl::StatusOr<const Device*> Open(int index);

  Architecture architecture() const { return architecture_; }
  absl::StatusOr<std::unique_ptr<const LoadedKernel>> Load(const std::string& cubin, const std::string& entry) const;

 private:
  Device(const DriverApi& api, void* context, Architecture architecture)
      : api_(api), context_(context), architecture_(architecture) {}

  const DriverApi& api_;
  void* const context_;
  const Architecture architecture_;
};

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CODEGEN_DRIVER_H_
