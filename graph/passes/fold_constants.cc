// Constant folding: computes small CPU tensors that depend on constants and numbers alone (position ids, causal masks).
// Not folded: what the caller gets (it may write it), what an operator writes, and bare fills (full, zeros, ones),
// which fuse better as numbers than as memory. Runs operators through the dispatcher; one that raises is left in the
// graph.
#include "graph/constant.h"
#include "graph/operator_table.h"
#include "graph/passes/analysis.h"
#include "graph/passes/execute.h"
#include "graph/passes/pipeline.h"

namespace framejit {
namespace {

constexpr int64_t kMaxElements = 1 << 14;

const OperatorTable<bool>& Fills() {
  static const auto* table = new OperatorTable<bool>{
      {"aten::full", true},      {"aten::zeros", true},      {"aten::ones", true},      {"aten::scalar_tensor", true},
      {"aten::full_like", true}, {"aten::zeros_like", true}, {"aten::ones_like", true}, {"aten::new_zeros", true},
      {"aten::new_ones", true},  {"aten::new_full", true},
  };
  return *table;
}

class Folder {
 public:
  explicit Folder(Graph& graph)
      : graph_(graph), facts_(graph), maker_(graph.values.size(), -1), known_(graph.values.size()) {
    for (const GraphConstant& constant : graph.constants) known_[constant.id] = constant.tensor;
  }

  int Run() {
    std::vector<bool> wanted(graph_.values.size(), false);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      if (Foldable(node)) {
        maker_[node.outputs[0]] = static_cast<int>(i);
      } else {
        ForEachOperandValue(node, [&](const ValueId& id) { wanted[id] = true; });
      }
    }
    for (const InputMutation& mutation : graph_.mutations) wanted[mutation.value] = true;

    int folded = 0;
    std::vector<bool> drop(graph_.nodes.size(), false);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      if (node.outputs.size() != 1 || node.outputs[0] == kNoValue) continue;
      ValueId id = node.outputs[0];
      if (maker_[id] != static_cast<int>(i) || !wanted[id] || Fills().Find(node.op) != nullptr || !Compute(id))
        continue;
      graph_.constants.push_back({id, known_[id]});
      drop[i] = true;
      ++folded;
    }
    if (folded == 0) return 0;
    KeptNodes kept(graph_.nodes);
    for (size_t i = 0; i < drop.size(); ++i) {
      if (!drop[i]) kept.Keep(graph_.nodes[i]);
    }
    return folded;  // what only folded nodes used is dead code now
  }

 private:
  bool Foldable(const Node& node) const {
    if (node.outputs.size() != 1 || node.outputs[0] == kNoValue || !node.list_lengths.empty()) return false;
    if (HasEffect(node) || IsUninitialized(node) || facts_.TouchesWritten(node)) return false;
    const TensorMeta& meta = graph_.meta(node.outputs[0]);
    if (!meta.device.is_cpu() || meta.numel() > kMaxElements || facts_.Escapes(node.outputs[0])) return false;
    bool foldable = true;
    ForEachOperandValue(node, [&](const ValueId& id) { foldable &= maker_[id] >= 0 || known_[id].defined(); });
    return foldable;
  }

  // Makes known_[id], or says that it cannot.
  bool Compute(ValueId id) {
    if (known_[id].defined()) return true;
    if (maker_[id] < 0) return false;
    const Node& node = graph_.nodes[maker_[id]];
    bool complete = true;
    ForEachOperandValue(node, [&](const ValueId& operand) { complete = complete && Compute(operand); });
    if (!complete) return false;
    at::Tensor result = Result(node);
    if (!result.defined()) return false;
    const TensorMeta& meta = graph_.meta(id);
    bool expected = result.scalar_type() == meta.dtype && result.sizes() == c10::IntArrayRef(meta.sizes) &&
                    result.strides() == c10::IntArrayRef(meta.strides) && result.device() == meta.device;
    if (expected) known_[id] = std::move(result);
    return expected;
  }

  at::Tensor Result(const Node& node) const {
    try {
      const torch::jit::Stack stack = Execute(node, [this](ValueId id) { return known_[id]; });
      return stack.size() == 1 && stack[0].isTensor() ? stack[0].toTensor() : at::Tensor();
    } catch (const std::exception&) {
      return {};  // then the call raises it, in its place
    }
  }

  Graph& graph_;
  MemoryFacts facts_;
  std::vector<int> maker_;         // by value: the foldable node that makes it
  std::vector<at::Tensor> known_;  // by value
};

}  // namespace

int FoldConstants(Graph& graph) { return Folder(graph).Run(); }

}  // namespace framejit
