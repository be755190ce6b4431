#include "frame_eval/size_modules.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace framejit {

absl::StatusOr<std::shared_ptr<CompiledGraph>> SizeModules::Find(const OpenRequest& request) {
  for (size_t i = 0; i < modules_.size(); ++i) {
    const std::shared_ptr<const OpenModule> module = modules_[i];  // others may be added while Python code runs
    absl::StatusOr<bool> holds = Holds(*module, request.inputs);
    if (!holds.ok()) return holds.status();
    if (*holds) return module->graph;
  }
  if (modules_.size() + failures_of_data_ >= kMaxModules) {
    has_too_many_ = true;
    return absl::ResourceExhaustedError(
        absl::StrCat("the backend was called for ", kMaxModules, " sets of sizes, and each holds for few"));
  }
  absl::StatusOr<OpenModule> made = CompileOpen(*backend_, request);
  if (!made.ok()) {
    if (request.program->of_data) ++failures_of_data_;
    return made.status();
  }
  modules_.push_back(std::make_shared<const OpenModule>(*std::move(made)));
  if (LogEnabled(LogArtifact::k_symbols))
    Log(LogArtifact::k_symbols, absl::StrCat(name_, ": module ", modules_.size(), " of the backend is for ",
                                             modules_.back()->holds ? modules_.back()->text : "all sizes"));
  return modules_.back()->graph;
}

}  // namespace framejit
