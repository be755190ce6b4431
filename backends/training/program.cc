#include "backends/training/program.h"

#include "absl/strings/str_cat.h"
#include "backends/interp/interp.h"
#include "base/log.h"
#include "graph/passes/pipeline.h"
#include "graph/print.h"
#include "graph/verify.h"

namespace framejit {

const BackwardVariant& TrainingProgram::Backward(size_t section, std::vector<bool> wanted, bool by_operator) {
  Key key{section, by_operator, std::move(wanted)};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto row = backwards_.find(key); row != backwards_.end()) return *row->second;
  }
  // Without the lock: the log takes the GIL, whose owner may want the lock. Of two threads the first one's stays.
  std::unique_ptr<BackwardVariant> variant = Compile(key);
  std::lock_guard<std::mutex> lock(mutex_);
  return *backwards_.try_emplace(std::move(key), std::move(variant)).first->second;
}

// The passes and the backend only make a backward faster: where they fail, its operators run as they were recorded.
std::unique_ptr<BackwardVariant> TrainingProgram::Compile(const Key& key) const {
  auto variant = std::make_unique<BackwardVariant>();
  variant->plan = ExtractBackward(request_.partition, key.section, key.wanted);
  CompileRequest request;
  request.graph = &variant->plan.graph;
  if (!key.by_operator) {
    absl::Status status = RunPipeline(variant->plan.graph, nullptr);
    if (status.ok()) status = Verify(variant->plan.graph);
    absl::StatusOr<std::unique_ptr<CompiledGraph>> graph = absl::InternalError("");
    if (status.ok()) {
      graph = request_.backend->Compile(request);
    } else {
      graph = status;
    }
    if (LogEnabled(LogArtifact::k_aten)) {
      PrintOptions options;
      options.max_constant_elements = 16;
      Log(LogArtifact::k_aten, absl::StrCat("ATen graph of the backward of ", request_.name, " after the passes:\n",
                                            PrintGraph(variant->plan.graph, options)));
    }
    if (graph.ok()) {
      variant->graph = *std::move(graph);
      return variant;
    }
    LogWarning(absl::StrCat("the backward of ", request_.name,
                            " runs operator by operator: ", std::string(graph.status().message())));
    variant->plan = ExtractBackward(request_.partition, key.section, key.wanted);
  }
  absl::StatusOr<std::unique_ptr<CompiledGraph>> graph = MakeInterpBackend()->Compile(request);
  TORCH_CHECK(graph.ok(), "framejit: ", std::string(graph.status().message()));
  variant->graph = *std::move(graph);
  return variant;
}

CompiledGraph& TrainingProgram::AutogradGraph() {
  if (autograd_graph_ == nullptr) {
    absl::StatusOr<std::unique_ptr<CompiledGraph>> made = request_.make_autograd_graph();
    TORCH_CHECK(made.ok(), "framejit: ", std::string(made.status().message()));
    if (autograd_graph_ == nullptr) autograd_graph_ = *std::move(made);
  }
  return *autograd_graph_;
}

std::string TrainingProgram::Describe() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string text;
  for (const auto& [key, variant] : backwards_) absl::StrAppend(&text, "backward:\n", variant->graph->Describe());
  return text;
}

}  // namespace framejit
