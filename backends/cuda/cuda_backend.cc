#include "backends/cuda/cuda_backend.h"

#include <algorithm>
#include <mutex>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "backends/cpu/cpu_target.h"
#include "backends/cuda/cuda_target.h"
#include "backends/cuda/graph_launches.h"
#include "backends/cuda/torch_launch_device.h"
#include "backends/interp/interp.h"
#include "backends/native/native_backend.h"
#include "base/log.h"

namespace framejit {
namespace {

class CudaBackend : public Backend {
 public:
  bool wants_functional_graph() const override { return true; }

  absl::StatusOr<std::unique_ptr<CompiledGraph>> Compile(const CompileRequest& request) override {
    if (request.graph == nullptr) return absl::InvalidArgumentError("cuda: no graph was given");
    const std::vector<TensorMeta>& values = request.graph->values;
    const auto on_gpu =
        std::find_if(values.begin(), values.end(), [](const TensorMeta& meta) { return meta.device.is_cuda(); });
    if (on_gpu == values.end()) return native::CompileFor(cpu::CpuTarget(), request);
    absl::StatusOr<const native::Target*> target = cuda::CudaTarget(on_gpu->device);
    if (target.ok()) {
      return native::CompileFor(**target, request, [](std::unique_ptr<native::NativeGraph> graph) {
        return cuda::WithGraphLaunches(std::move(graph), cuda::TorchLaunchDevice());
      });
    }
    WarnOnce(absl::StrCat("operators on ", on_gpu->device.str(),
                          " run one by one: ", std::string(target.status().message())));
    return MakeInterpBackend()->Compile(request);
  }

 private:
  void WarnOnce(const std::string& message) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!warned_.insert(message).second) return;
    }
    LogWarning(message);
  }

  std::mutex mutex_;
  std::set<std::string> warned_;
};

}  // namespace

std::shared_ptr<Backend> MakeCudaBackend() { return std::make_shared<CudaBackend>(); }

}  // namespace framejit
