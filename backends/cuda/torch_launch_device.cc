#include "backends/cuda/torch_launch_device.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/cuda/codegen/driver.h"
#include "backends/cuda/cuda_target.h"
#include "backends/plugin/python_error.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/error_text.h"

namespace framejit::cuda {
namespace {

class HeldGil {
 public:
  HeldGil() : state_(PyGILState_Ensure()) {}
  ~HeldGil() { PyGILState_Release(state_); }
  HeldGil(const HeldGil&) = delete;
  HeldGil& operator=(const HeldGil&) = delete;

 private:
  const PyGILState_STATE state_;
};

class OnStream {
 public:
  explicit OnStream(c10::Stream stream) : before_(impl_.exchangeStream(stream)) {}
  ~OnStream() { impl_.exchangeStream(before_); }
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  const c10::impl::VirtualGuardImpl impl_{c10::DeviceType::CUDA};
  const c10::Stream before_;
};

// Waits for a lock without the GIL, which whoever has the lock may need.
class WithoutGil {
 public:
  WithoutGil() : state_(PyGILState_Check() != 0 ? PyEval_SaveThread() : nullptr) {}
  ~WithoutGil() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* const state_;
};

// Graphs read the generator's seed and offset from memory that all of them share, and that torch writes in front of
// each launch and where a capture begins. On one stream each graph finds its own; work on another stream is to wait for
// the last of them. While this lives, `stream` does what draws, and no other thread makes any stream do so.
class Draw {
 public:
  explicit Draw(const c10::Stream& stream) : stream_(stream), lock_(Lock()), last_(LastOf(stream.device_index())) {
    if (last_.stream.has_value() && *last_.stream != stream.id()) last_.event->block(stream);
  }
  ~Draw() {
    try {
      if (!last_.event.has_value()) last_.event.emplace(c10::DeviceType::CUDA);
      last_.event->record(stream_);
      last_.stream = stream_.id();
    } catch (const c10::Error&) {
      // The device failed, or a capture did not end: what comes next raises as well, or does not depend on this.
    }
  }
  Draw(const Draw&) = delete;
  Draw& operator=(const Draw&) = delete;

 private:
  struct Last {
    std::optional<c10::StreamId> stream;
    std::optional<c10::Event> event;
  };

  // A finalizer may draw in turn, further up on this thread.
  static std::unique_lock<std::recursive_mutex> Lock() {
    static auto* mutex = new std::recursive_mutex;
    std::unique_lock<std::recursive_mutex> lock(*mutex, std::try_to_lock);
    if (!lock.owns_lock()) {
      const WithoutGil waiting;
      lock.lock();
    }
    return lock;
  }
  static Last& LastOf(c10::DeviceIndex device) {
    static auto* last = new std::map<c10::DeviceIndex, Last>;
    return (*last)[device];
  }

  const c10::Stream stream_;
  const std::unique_lock<std::recursive_mutex> lock_;
  Last& last_;
};

constexpr char kCapturing[] = "capturing a CUDA graph";

// Of framejit._cuda.Capture.
absl::StatusOr<PyRef> CallMethod(PyObject* object, const char* name) {
  PyRef result = PyRef::Steal(PyObject_CallMethod(object, name, nullptr));
  if (!result) return TakePythonError(kCapturing);
  return result;
}

absl::StatusOr<PyRef> BeginCapture(const c10::Stream& stream) {
  PyRef module = PyRef::Steal(PyImport_ImportModule("framejit._cuda"));
  if (!module) return TakePythonError(kCapturing);
  const auto id = static_cast<long long>(stream.id());
  PyRef capture =
      PyRef::Steal(PyObject_CallMethod(module.get(), "Capture", "iL", static_cast<int>(stream.device_index()), id));
  if (!capture) return TakePythonError(kCapturing);
  return capture;
}

class TorchGraph : public LaunchDevice::Graph {
 public:
  TorchGraph(PyRef launch, c10::Device device, bool draws)
      : launch_(std::move(launch)), device_(device), draws_(draws) {}
  ~TorchGraph() override {
    if (Py_IsInitialized()) {
      const HeldGil gil;
      launch_ = PyRef();
    } else {
      launch_.release();
    }
  }

  void Launch() const override {
    std::optional<Draw> draw;
    if (draws_) draw.emplace(c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(device_));
    const HeldGil gil;
    const PyRef result = PyRef::Steal(PyObject_CallNoArgs(launch_.get()));
    if (result) return;
    const absl::Status status = TakePythonError("launching a CUDA graph");
    TORCH_CHECK(false, std::string(status.message()));
  }

 private:
  PyRef launch_;  // a callable; holds the graph
  const c10::Device device_;
  const bool draws_;
};

class EventWatch : public LaunchDevice::Watch {
 public:
  void Start(const c10::Stream& stream) override { start_.record(stream); }
  void Stop(const c10::Stream& stream) override { end_.record(stream); }
  std::optional<double> Nanoseconds() const override {
    if (!end_.query()) return std::nullopt;
    return start_.elapsedTime(end_) * 1e6;
  }

 private:
  c10::Event start_{c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT};
  c10::Event end_{c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT};
};

class TheTorchLaunchDevice : public LaunchDevice {
 public:
  absl::StatusOr<std::unique_ptr<Graph>> Capture(const c10::Stream& stream, bool draws,
                                                 const std::function<void()>& work) const override {
    const c10::impl::VirtualGuardImpl impl(c10::DeviceType::CUDA);
    const c10::Stream side = impl.getStreamFromGlobalPool(stream.device());
    const Draw draw(side);  // torch writes the generator's memory in any case
    const HeldGil gil;
    const OnStream aside(side);
    absl::StatusOr<PyRef> capture = BeginCapture(stream);
    if (!capture.ok()) return capture.status();
    std::string error;
    try {
      work();
    } catch (const std::exception& raised) {
      error = ErrorText(raised);
    }
    if (!error.empty()) {
      if (absl::StatusOr<PyRef> dropped = CallMethod(capture->get(), "drop"); !dropped.ok()) return dropped.status();
      return absl::InternalError(error.substr(0, error.find('\n')));
    }
    absl::StatusOr<PyRef> launch = CallMethod(capture->get(), "finish");
    if (!launch.ok()) return launch.status();
    return std::make_unique<TorchGraph>(*std::move(launch), stream.device(), draws);
  }

  std::atomic<bool>& BusyFlag(const c10::Stream& stream) const override {
    std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<std::atomic<bool>>& flag = busy_[{stream.device_index(), stream.id()}];
    if (flag == nullptr) flag = std::make_unique<std::atomic<bool>>(false);
    return *flag;
  }

  std::optional<c10::Stream> UsableStream(c10::Device device) const override {
    const c10::Stream stream = c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(device);
    const bool is_torchs = stream.id() == 0 || stream.id() % 2 != 0;  // others have an address for an id
    if (!is_torchs || IsCapturing(NativeStream(device))) return std::nullopt;
    return stream;
  }

  void Copy(c10::Device device, void* to, const void* from, size_t bytes) const override {
    const absl::Status status = CopyOnDevice(to, from, bytes, NativeStream(device));
    TORCH_CHECK(status.ok(), "CUDA error: ", std::string(status.message()));
  }

  std::unique_ptr<Watch> NewWatch() const override { return std::make_unique<EventWatch>(); }

 private:
  mutable std::mutex mutex_;
  mutable std::map<std::pair<c10::DeviceIndex, c10::StreamId>, std::unique_ptr<std::atomic<bool>>> busy_;
};

}  // namespace

const LaunchDevice& TorchLaunchDevice() {
  static const auto* device = new TheTorchLaunchDevice;
  return *device;
}

}  // namespace framejit::cuda
