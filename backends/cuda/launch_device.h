// What graph_launches.h needs of a device and of torch: captures, copies in the order of a stream, times. An interface,
// so that what it does with them is tested without a GPU.
#ifndef FRAMEJIT_BACKENDS_CUDA_LAUNCH_DEVICE_H_
#define FRAMEJIT_BACKENDS_CUDA_LAUNCH_DEVICE_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"

namespace framejit::cuda {

class LaunchDevice {
 public:
  // Work that can be launched at once, again and again, and its hold on the memory that it uses.
  class Graph {
   public:
    virtual ~Graph() = default;
    // On the device's current stream; random numbers go on where torch's generator is. Raises c10::Error.
    virtual void Launch() const = 0;
  };

  // Measures how long a stretch of a stream takes on the device.
  class Watch {
   public:
    virtual ~Watch() = default;
    virtual void Start(const c10::Stream& stream) = 0;
    virtual void Stop(const c10::Stream& stream) = 0;
    // Nothing before the device is done with it. Does not wait.
    virtual std::optional<double> Nanoseconds() const = 0;
  };

  virtual ~LaunchDevice() = default;
  // What `work` puts on the device's current stream, which is another one while it does; nothing of it runs. The
  // device is the current one. All that is captured for launches on the same `stream` shares memory: what `work` let go
  // of may be another graph's as well, and is only this one's from its launch to the next one on the stream. `draws`:
  // the work takes random numbers from torch's generator. An error says why it cannot be captured; torch is as it was.
  virtual absl::StatusOr<std::unique_ptr<Graph>> Capture(const c10::Stream& stream, bool draws,
                                                         const std::function<void()>& work) const = 0;
  // Set by whoever captures for the stream, or launches on it and has yet to take the results.
  virtual std::atomic<bool>& BusyFlag(const c10::Stream& stream) const = 0;
  // The current one; nothing where work on it cannot be launched as a graph: it goes into a capture of the program's
  // own, or torch did not make the stream, which may be gone by the next call, with another one in its place.
  virtual std::optional<c10::Stream> UsableStream(c10::Device device) const = 0;
  // In the order of the current stream. Raises c10::Error.
  virtual void Copy(c10::Device device, void* to, const void* from, size_t bytes) const = 0;
  virtual std::unique_ptr<Watch> NewWatch() const = 0;
};

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_LAUNCH_DEVICE_H_
