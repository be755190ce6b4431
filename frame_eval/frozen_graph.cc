#include "frame_eval/frozen_graph.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "graph/passes/freeze.h"

namespace framejit {
namespace {

// Where weights change after fewer runs than that, this often, they are no constants any more.
constexpr int64_t kFewRuns = 16;
constexpr int kMostShortLived = 8;

}  // namespace

bool FrozenGraph::Stamp::Matches(const at::Tensor& now) const {
  const c10::TensorImpl* impl = now.unsafeGetTensorImpl();
  return impl == tensor._unsafe_get_target() && impl->version_counter().current_version() == version &&
         (impl->has_storage() ? impl->storage().data() : nullptr) == memory;
}

bool FrozenGraph::Compiled::Matches(c10::ArrayRef<at::Tensor> inputs) const {
  return std::all_of(stamps.begin(), stamps.end(),
                     [&](const Stamp& stamp) { return stamp.Matches(inputs[stamp.input]); });
}

absl::StatusOr<std::unique_ptr<CompiledGraph>> FrozenGraph::Make(Graph functional, std::shared_ptr<Backend> backend,
                                                                 std::vector<size_t> weights,
                                                                 c10::ArrayRef<at::Tensor> inputs, Graph* lowered,
                                                                 Timings* timings) {
  std::erase_if(weights, [&](size_t i) {
    return std::any_of(functional.mutations.begin(), functional.mutations.end(),
                       [&](const InputMutation& mutation) { return mutation.input == functional.inputs[i]; });
  });
  std::unique_ptr<FrozenGraph> made(new FrozenGraph(std::move(functional), std::move(backend), std::move(weights)));
  absl::StatusOr<std::shared_ptr<Compiled>> compiled = made->Compile(inputs, lowered, timings);
  if (!compiled.ok()) return compiled.status();
  made->compiled_ = *std::move(compiled);
  return made;
}

absl::StatusOr<std::shared_ptr<FrozenGraph::Compiled>> FrozenGraph::Compile(c10::ArrayRef<at::Tensor> inputs,
                                                                            Graph* lowered, Timings* timings) const {
  auto compiled = std::make_shared<Compiled>();
  FrozenValues frozen;
  for (size_t i : weights_) {
    const at::Tensor& tensor = inputs[i];
    if (tensor.is_inference() || !tensor.has_storage()) continue;
    c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    compiled->stamps.push_back({i, c10::weak_intrusive_ptr<c10::TensorImpl>(tensor.getIntrusivePtr()),
                                impl->storage().data(), impl->version_counter().current_version()});
    frozen.emplace_back(functional_.inputs[i], tensor);
  }
  Graph graph = functional_;
  if (absl::Status status = RunFrozenPipeline(graph, frozen, timings); !status.ok()) return status;
  CompileRequest request;
  request.graph = &graph;
  request.example_inputs = inputs;
  request.timings = timings;
  absl::StatusOr<std::unique_ptr<CompiledGraph>> made = backend_->Compile(request);
  if (!made.ok()) return made.status();
  compiled->graph = *std::move(made);
  if (lowered != nullptr) *lowered = std::move(graph);
  return compiled;
}

std::shared_ptr<FrozenGraph::Compiled> FrozenGraph::For(c10::ArrayRef<at::Tensor> inputs) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++runs_;
  if (compiled_->Matches(inputs)) return compiled_;
  short_lived_ = runs_ <= kFewRuns ? short_lived_ + 1 : 0;
  runs_ = 0;
  const bool thaws = short_lived_ > kMostShortLived;
  if (thaws) weights_.clear();
  Log(LogArtifact::k_recompiles, thaws ? "frozen weights change again and again: they are no constants from now on"
                                       : "frozen weights changed: the graph is compiled for what they are now");
  absl::StatusOr<std::shared_ptr<Compiled>> compiled = Compile(inputs, nullptr, nullptr);
  TORCH_CHECK(compiled.ok(), "compiling a graph for other weights: ", compiled.status().ToString());
  compiled_ = *std::move(compiled);
  return compiled_;
}

void FrozenGraph::Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) {
  For(inputs)->graph->Run(inputs, outputs);
}

void FrozenGraph::RunReleasing(std::vector<at::Tensor> inputs, std::vector<at::Tensor>& outputs) {
  const std::shared_ptr<Compiled> compiled = For(inputs);
  compiled->graph->RunReleasing(std::move(inputs), outputs);
}

std::string FrozenGraph::Describe() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return absl::StrCat("frozen weights: ", compiled_->stamps.size(), "\n", compiled_->graph->Describe());
}

}  // namespace framejit
