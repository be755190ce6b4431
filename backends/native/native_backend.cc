#include "backends/native/native_backend.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "backends/interp/interp.h"
#include "backends/native/plan.h"
#include "base/log.h"
#include "graph/error_text.h"

namespace framejit::native {

absl::StatusOr<std::unique_ptr<CompiledGraph>> CompileFor(const Target& target, const CompileRequest& request,
                                                          const FinishNativeGraph& finish) {
  if (request.graph == nullptr) return absl::InvalidArgumentError("a native backend: no graph was given");
  try {
    auto plan = MakePlan(*request.graph, target, request.timings);
    if (plan.ok()) {
      auto made = std::make_unique<NativeGraph>(*std::move(plan));
      return finish != nullptr ? finish(std::move(made)) : std::move(made);
    }
    if (!absl::IsUnimplemented(plan.status())) return plan.status();
    Log(LogArtifact::k_loops, absl::StrCat("operator by operator: ", std::string(plan.status().message())));
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat("compiling for ", target.device().str(), ": ", ErrorText(error)));
  }
  return MakeInterpBackend()->Compile(request);
}

}  // namespace framejit::native
