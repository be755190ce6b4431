#include "graph/passes/pipeline.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "graph/print.h"
#include "graph/verify.h"

namespace framejit {
namespace {

constexpr Pass kPasses[] = {
    {"canonicalise", Canonicalise}, {"fold_constants", FoldConstants},      {"decompose", Decompose},
    {"simplify", Simplify},         {"cse", EliminateCommonSubexpressions}, {"dead_code", EliminateDeadCode},
};

#ifdef NDEBUG
constexpr bool kVerifyBetweenPasses = false;
#else
constexpr bool kVerifyBetweenPasses = true;
#endif

absl::Status VerifyAfter(const char* pass, const Graph& graph) {
  absl::Status status = Verify(graph);
  if (status.ok()) return status;
  return absl::InternalError(absl::StrCat("after ", pass, ": ", status.message()));
}

void LogGraph(const char* when, const Graph& graph) {
  if (!LogEnabled(LogArtifact::k_aten)) return;
  PrintOptions options;
  options.max_constant_elements = 16;
  Log(LogArtifact::k_aten, absl::StrCat("ATen graph ", when, " the passes:\n", PrintGraph(graph, options)));
}

}  // namespace

absl::Span<const Pass> Passes() { return kPasses; }

const Pass* FindPass(std::string_view name) {
  for (const Pass& pass : kPasses) {
    if (name == pass.name) return &pass;
  }
  return nullptr;
}

absl::Status RunPipeline(Graph& graph, Timings* timings) {
  LogGraph("before", graph);
  if (kVerifyBetweenPasses) {
    absl::Status status = VerifyAfter("recording", graph);
    if (!status.ok()) return status;
  }
  for (const Pass& pass : kPasses) {
    ScopedTiming timing(timings, pass.name);
    pass.run(graph);
    if (!kVerifyBetweenPasses) continue;
    absl::Status status = VerifyAfter(pass.name, graph);
    if (!status.ok()) return status;
  }
  LogGraph("after", graph);
  return absl::OkStatus();
}

}  // namespace framejit
