#include "backends/training/program.h"

#include <torch/csrc/utils/pybind.h>

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "backends/interp/interp.h"
#include "backends/training/layouts.h"
#include "base/log.h"
#include "graph/passes/pipeline.h"
#include "graph/print.h"
#include "graph/verify.h"

namespace framejit {
namespace {

// Beyond so many, tangents are brought into the recorded layouts.
constexpr size_t kMostBackwards = 32;

}  // namespace

TrainingProgram::TrainingProgram(TrainingRequest request) : request_(std::move(request)) {
  has_gradient_.assign(joint().differentiable_inputs.size(), false);
  for (const EngineNode& node : joint().engine.nodes) {
    if (node.input >= 0) has_gradient_[static_cast<size_t>(node.input)] = true;
  }
  const std::vector<std::vector<uint64_t>> purposes = joint().engine.Purposes(has_gradient_.size());
  for (int32_t root : joint().engine.roots) {
    std::vector<int32_t>& inputs = inputs_of_.emplace_back();
    for (size_t i = 0; i < has_gradient_.size(); ++i) {
      if (purposes[static_cast<size_t>(root)][i / 64] >> (i % 64) & 1) inputs.push_back(static_cast<int32_t>(i));
    }
  }
}

const BackwardVariant& TrainingProgram::Backward(size_t section, std::vector<bool> wanted, bool by_operator,
                                                 TangentStrides strides) {
  Key key{section, by_operator, std::move(wanted), std::move(strides)};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto row = backwards_.find(key);
    if (row == backwards_.end() && backwards_.size() >= kMostBackwards) {
      key.strides.clear();
      row = backwards_.find(key);
    }
    if (row != backwards_.end()) return *row->second;
  }
  // Without the lock: the log takes the GIL, whose owner may want the lock. Of two threads the first one's stays.
  std::unique_ptr<BackwardVariant> variant = Compile(key);
  std::lock_guard<std::mutex> lock(mutex_);
  return *backwards_.try_emplace(std::move(key), std::move(variant)).first->second;
}

// In the layouts of its tangents; where that cannot be had, in the recorded ones, into which they are brought.
BackwardGraph TrainingProgram::Plan(const Key& key) const {
  BackwardGraph plan = PlanInLayouts(key);
  plan.graph.modes = request_.partition.forward.modes;
  return plan;
}

BackwardGraph TrainingProgram::PlanInLayouts(const Key& key) const {
  BackwardGraph plan = ExtractBackward(request_.partition, key.section, key.wanted);
  std::vector<std::vector<int64_t>> strides(plan.saved.size());
  bool others = false;
  for (size_t i = 0; i < plan.tangents.size(); ++i) {
    strides.push_back(key.strides.empty() ? std::vector<int64_t>()
                                          : key.strides[static_cast<size_t>(plan.tangents[i])]);
    others |= !strides.back().empty();
  }
  if (!others) return plan;
  absl::StatusOr<Graph> graph = absl::InternalError("");
  {
    pybind11::gil_scoped_acquire gil;
    graph = WithInputStrides(plan.graph, strides);
  }
  if (graph.ok()) plan.graph = *std::move(graph);
  return plan;
}

// The passes and the backend only make a backward faster: where they fail, its operators run as they were recorded.
std::unique_ptr<BackwardVariant> TrainingProgram::Compile(const Key& key) const {
  auto variant = std::make_unique<BackwardVariant>();
  variant->plan = Plan(key);
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
    variant->plan = Plan(key);
  }
  absl::StatusOr<std::unique_ptr<CompiledGraph>> graph = MakeInterpBackend()->Compile(request);
  TORCH_CHECK(graph.ok(), "framejit: ", std::string(graph.status().message()));
  variant->graph = *std::move(graph);
  return variant;
}

std::shared_ptr<const Consumption> TrainingProgram::Consume(OutputMask given, const std::vector<bool>& wanted) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<const Consumption>& found = consumptions_[Use{given, wanted}];
  if (found == nullptr) found = Consume(joint().engine.Order(given, wanted), nullptr);
  return found;
}

std::shared_ptr<const Consumption> TrainingProgram::Consume(const std::vector<int32_t>& nodes,
                                                            const Consumption* before) const {
  const EngineNodes& engine = joint().engine;
  auto made = std::make_shared<Consumption>();
  if (before != nullptr) made->ran = before->ran;
  made->ran.resize(engine.nodes.size(), false);
  absl::flat_hash_set<int32_t> inputs, outputs;
  for (int32_t index : nodes) {
    const EngineNode& node = engine.nodes[static_cast<size_t>(index)];
    made->ran[static_cast<size_t>(index)] = true;
    if (node.input >= 0) made->arrivals.push_back(node.input);
    inputs.insert(node.inputs.begin(), node.inputs.end());
    outputs.insert(node.outputs.begin(), node.outputs.end());
  }
  // By output and input: whether a backward of the one for the other would come to a node that has freed what it saved.
  const size_t input_count = joint().differentiable_inputs.size();
  const std::vector<OutputMask> sources = engine.Sources();
  const std::vector<std::vector<uint64_t>> purposes = engine.Purposes(input_count);
  std::vector<OutputMask> raises(input_count, 0), reaches(input_count, 0);
  for (size_t n = 0; n < engine.nodes.size(); ++n) {
    const bool freed = engine.nodes[n].frees && made->ran[n];
    for (size_t i = 0; i < input_count; ++i) {
      if ((purposes[n][i / 64] >> (i % 64) & 1) == 0) continue;
      reaches[i] |= sources[n];
      if (freed) raises[i] |= sources[n];
    }
  }
  const bool any = std::any_of(reaches.begin(), reaches.end(), [](OutputMask outputs) { return outputs != 0; });
  // The backwards up to cut points that would not raise.
  OutputMask cuts = 0;
  for (size_t i = 0; i < joint().cuts.size(); ++i) {
    const CutSection& cut = joint().cuts[i];
    const bool freed = std::any_of(cut.nodes.begin(), cut.nodes.end(), [&](int32_t node) {
      return engine.nodes[static_cast<size_t>(node)].frees && made->ran[static_cast<size_t>(node)];
    });
    if (!cut.points.empty() && !freed) cuts |= OutputMask{1} << i;
  }
  made->all = any && raises == reaches &&
              std::none_of(request_.partition.saved.begin(), request_.partition.saved.end(),
                           [&](const SavedValue& saved) { return (saved.cut_by & cuts) != 0; });
  for (size_t s = 0; s < request_.partition.saved.size(); ++s) {
    const SavedValue& saved = request_.partition.saved[s];
    const auto index = static_cast<int32_t>(s);
    bool freed = (saved.cut_by & cuts) == 0;
    for (size_t i = 0; i < input_count; ++i) freed = freed && (!saved.used_for[i] || (saved.used_by & ~raises[i]) == 0);
    if (freed) made->freed.push_back(index);
    const bool held = saved.kind == SavedValue::Kind::kInput    ? inputs.contains(saved.index)
                      : saved.kind == SavedValue::Kind::kOutput ? outputs.contains(saved.index)
                                                                : false;
    if (held && !saved.read_anew) made->checked.push_back(index);
  }
  return made;
}

std::vector<bool> TrainingProgram::InputsReadBy(OutputMask given) const {
  const Graph& graph = joint().graph;
  std::vector<bool> read(graph.values.size(), false);
  for (const SavedValue& saved : request_.partition.saved) {
    if (saved.value != kNoValue && ((saved.used_by | saved.cut_by) & given) != 0)
      read[static_cast<size_t>(saved.value)] = true;
  }
  for (auto node = graph.nodes.rbegin(); node != graph.nodes.rend(); ++node) {
    const bool behind = std::any_of(node->outputs.begin(), node->outputs.end(),
                                    [&](ValueId id) { return id != kNoValue && read[static_cast<size_t>(id)]; });
    if (behind) ForEachOperandValue(*node, [&](ValueId id) { read[static_cast<size_t>(id)] = true; });
  }
  std::vector<bool> inputs;
  for (size_t i = 0; i < joint().input_count; ++i) inputs.push_back(read[static_cast<size_t>(graph.inputs[i])]);
  return inputs;
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
