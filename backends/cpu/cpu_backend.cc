#include "backends/cpu/cpu_backend.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "backends/cpu/executor.h"
#include "backends/cpu/plan.h"
#include "backends/interp/interp.h"
#include "base/log.h"

namespace framejit {
namespace {

class CpuBackend : public Backend {
 public:
  bool wants_functional_graph() const override { return true; }

  absl::StatusOr<std::unique_ptr<CompiledGraph>> Compile(const CompileRequest& request) override {
    if (request.graph == nullptr) return absl::InvalidArgumentError("cpu: no graph was given");
    try {
      auto plan = cpu::MakePlan(*request.graph);
      if (plan.ok()) return std::make_unique<cpu::CpuGraph>(*std::move(plan));
      if (!absl::IsUnimplemented(plan.status())) return plan.status();
      Log(LogArtifact::k_loops, absl::StrCat("operator by operator: ", std::string(plan.status().message())));
    } catch (const c10::Error& error) {
      return absl::InternalError(absl::StrCat("cpu: ", error.what_without_backtrace()));
    }
    return MakeInterpBackend()->Compile(request);
  }
};

}  // namespace

std::shared_ptr<Backend> MakeCpuBackend() { return std::make_shared<CpuBackend>(); }

}  // namespace framejit
