// Registers the backends that come with framejit.
#include "absl/status/status.h"
#include "backends/backend.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cuda/cuda_backend.h"
#include "backends/interp/interp.h"
#include "backends/plugin/plugin.h"

namespace framejit {

absl::Status RegisterBuiltinBackends() {
  absl::Status status = RegisterBackend("interp", MakeInterpBackend());
  status.Update(RegisterBackend("eager", MakeEagerBackend()));
  status.Update(RegisterBackend("cpu", MakeCpuBackend()));
  status.Update(RegisterBackend("cuda", MakeCudaBackend()));
  if (status.ok()) AddBackendResolver(MakePythonResolver());
  return status;
}

}  // namespace framejit
