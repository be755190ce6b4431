#include "backends/cpu/cpu_backend.h"

#include "backends/cpu/cpu_target.h"
#include "backends/native/native_backend.h"

namespace framejit {
namespace {

class CpuBackend : public Backend {
 public:
  bool wants_functional_graph() const override { return true; }

  absl::StatusOr<std::unique_ptr<CompiledGraph>> Compile(const CompileRequest& request) override {
    return native::CompileFor(cpu::CpuTarget(), request);
  }
};

}  // namespace

std::shared_ptr<Backend> MakeCpuBackend() { return std::make_shared<CpuBackend>(); }

}  // namespace framejit
