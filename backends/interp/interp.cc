#include "backends/interp/interp.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "backends/alias.h"
#include "backends/dispatch.h"

namespace framejit {
namespace {

class InterpGraph : public CompiledGraph {
 public:
  explicit InterpGraph(const Graph& graph) : graph_(graph), last_uses_(LastUses(graph)) {
    std::vector<ValueId> roots = AliasRoots(graph);
    const bool writes =
        std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& node) { return MutatesArguments(node.op); });
    for (const GraphConstant& constant : graph.constants) {
      // Nobody sees or writes a number of the program's, and a copy would be no number to type promotion.
      const bool is_number = constant.tensor.unsafeGetTensorImpl()->is_wrapped_number();
      handed_out_.push_back(!is_number &&
                            (writes || std::any_of(graph.outputs.begin(), graph.outputs.end(), [&](ValueId id) {
                               return id != kNoValue && roots[static_cast<size_t>(id)] == constant.id;
                             })));
    }
  }

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override {
    TORCH_CHECK(inputs.size() == graph_.inputs.size(), "interp: ", graph_.inputs.size(), " inputs expected, ",
                inputs.size(), " given");
    RecordedLevelGuard level;
    std::vector<at::Tensor> tensors(graph_.values.size());
    for (size_t i = 0; i < inputs.size(); ++i) tensors[static_cast<size_t>(graph_.inputs[i])] = inputs[i];
    for (size_t i = 0; i < graph_.constants.size(); ++i) {
      const GraphConstant& constant = graph_.constants[i];
      tensors[static_cast<size_t>(constant.id)] = handed_out_[i] ? constant.tensor.clone() : constant.tensor;
    }
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      CallNode(graph_.nodes[i], tensors);
      for (ValueId id : last_uses_[i]) tensors[static_cast<size_t>(id)].reset();
    }
    outputs.clear();
    for (ValueId id : graph_.outputs) {
      outputs.push_back(id == kNoValue ? at::Tensor() : tensors[static_cast<size_t>(id)]);
    }
    std::vector<std::pair<at::Tensor, at::Tensor>> writes;
    for (const InputMutation& mutation : graph_.mutations) {
      writes.emplace_back(tensors[static_cast<size_t>(mutation.input)], tensors[static_cast<size_t>(mutation.value)]);
    }
    ApplyWrites(std::move(writes));
  }

  std::string Describe() const override {
    std::string text;
    for (const Node& node : graph_.nodes) absl::StrAppend(&text, "call ", OperatorName(node.op), "\n");
    absl::StrAppend(&text, graph_.nodes.size(), " operator calls, ", graph_.mutations.size(), " mutated inputs\n");
    return text;
  }

 private:
  const Graph graph_;
  const std::vector<std::vector<ValueId>> last_uses_;
  // By constant: the caller receives it or a view of it, or a call may write to it, so each run makes a copy.
  std::vector<bool> handed_out_;
};

class InterpBackend : public Backend {
 public:
  bool wants_functional_graph() const override { return true; }

  absl::StatusOr<std::unique_ptr<CompiledGraph>> Compile(const CompileRequest& request) override {
    if (request.graph == nullptr) return absl::InvalidArgumentError("interp: no graph was given");
    return std::make_unique<InterpGraph>(*request.graph);
  }
};

}  // namespace

std::shared_ptr<Backend> MakeInterpBackend() { return std::make_shared<InterpBackend>(); }

}  // namespace framejit
