#include "backends/cuda/torch_cuda_graph.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/plugin/python_error.h"
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

constexpr char kCapturing[] = "capturing a CUDA graph";

// A method of framejit._cuda.Capture, or of what it returns.
absl::StatusOr<PyRef> CallMethod(PyObject* object, const char* name) {
  PyRef result = PyRef::Steal(PyObject_CallMethod(object, name, nullptr));
  if (!result) return TakePythonError(kCapturing);
  return result;
}

absl::StatusOr<PyRef> BeginCapture() {
  PyRef module = PyRef::Steal(PyImport_ImportModule("framejit._cuda"));
  if (!module) return TakePythonError(kCapturing);
  return CallMethod(module.get(), "Capture");
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchCudaGraph>> TorchCudaGraph::Capture(c10::Device device,
                                                                        const std::function<void()>& work) {
  const HeldGil gil;
  const c10::impl::VirtualGuardImpl impl(c10::DeviceType::CUDA);
  const OnStream aside(impl.getStreamFromGlobalPool(device));
  absl::StatusOr<PyRef> capture = BeginCapture();
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
  return std::unique_ptr<TorchCudaGraph>(new TorchCudaGraph(*std::move(launch)));
}

TorchCudaGraph::~TorchCudaGraph() {
  if (Py_IsInitialized()) {
    const HeldGil gil;
    launch_ = PyRef();
  } else {
    launch_.release();
  }
}

void TorchCudaGraph::Launch() const {
  const HeldGil gil;
  const PyRef result = PyRef::Steal(PyObject_CallNoArgs(launch_.get()));
  if (result) return;
  const absl::Status status = TakePythonError("launching a CUDA graph");
  TORCH_CHECK(false, std::string(status.message()));
}

}  // namespace framejit::cuda
