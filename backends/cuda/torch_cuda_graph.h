// torch's CUDA graphs, which know torch's memory pools and random numbers. Reached through Python, since that is where
// every build of torch has them.
#ifndef FRAMEJIT_BACKENDS_CUDA_TORCH_CUDA_GRAPH_H_
#define FRAMEJIT_BACKENDS_CUDA_TORCH_CUDA_GRAPH_H_

#include <c10/core/Device.h>

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit::cuda {

// Work that can be launched at once, again and again, and the memory that it uses, which nothing else does.
class TorchCudaGraph {
 public:
  // What `work` puts on the device's current stream, which is another one while it does; nothing of it runs. The
  // device is the current one. An error says why it cannot be captured; torch is as it was.
  static absl::StatusOr<std::unique_ptr<TorchCudaGraph>> Capture(c10::Device device, const std::function<void()>& work);
  ~TorchCudaGraph();
  TorchCudaGraph(const TorchCudaGraph&) = delete;
  TorchCudaGraph& operator=(const TorchCudaGraph&) = delete;

  // On the device's current stream; random numbers go on where torch's generator is. Raises c10::Error.
  void Launch() const;

 private:
  explicit TorchCudaGraph(PyRef launch) : launch_(std::move(launch)) {}

  PyRef launch_;  // a callable; holds the graph
};

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_TORCH_CUDA_GRAPH_H_
