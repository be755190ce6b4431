// See freeze.h.
#include "graph/passes/freeze.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/InferenceMode.h>

#include <optional>

#include "graph/number_operand.h"
#include "graph/operator_table.h"
#include "graph/passes/analysis.h"
#include "graph/passes/known_values.h"
#include "graph/passes/pipeline.h"

namespace framejit {
namespace {

// A batch norm with running statistics.
struct BatchNorm {
  ValueId input, weight, bias, mean, var;
  double eps;
};

std::optional<BatchNorm> AsBatchNorm(const Node& node) {
  const std::string name = OperatorName(node.op);
  size_t eps = 6;
  if (name == "aten::native_batch_norm") {
    if (node.operands[5].constant.toBool()) return std::nullopt;
    eps = 7;
  } else if (name != "aten::_native_batch_norm_legit_no_training") {
    return std::nullopt;
  }
  const auto value = [&](size_t i) { return node.operands[i].value; };
  return BatchNorm{value(0), value(1), value(2), value(3), value(4), node.operands[eps].constant.toDouble()};
}

// What the operator in front of a batch norm reads; positions of its operands.
struct Producer {
  size_t weight, bias;
  int64_t channel_dim;  // of the weight
};

std::optional<Producer> AsProducer(const Graph& graph, const Node& node) {
  const std::string name = OperatorName(node.op);
  if (name == "aten::convolution") {
    if (node.operands[6].constant.toBool()) return std::nullopt;  // transposed
    return Producer{1, 2, 0};
  }
  if (name != "aten::addmm") return std::nullopt;
  const auto is_one = [&](size_t i) {
    return !IsNumberOperand(node, i) && node.operands[i].constant.toScalar().toDouble() == 1;
  };
  if (!is_one(3) || !is_one(4) || graph.meta(node.operands[0].value).sizes.size() != 1) return std::nullopt;
  return Producer{2, 0, 1};
}

bool IsComputedIn(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.defined() && tensor.scalar_type() == dtype;
}

class BatchNormFolder {
 public:
  BatchNormFolder(Graph& graph, const FrozenValues& frozen)
      : graph_(graph),
        facts_(graph),
        known_(graph, frozen),
        maker_(graph.values.size(), -1),
        uses_(graph.values.size()) {
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      for (ValueId id : graph.nodes[i].outputs) {
        if (id != kNoValue) maker_[id] = static_cast<int>(i);
      }
      ForEachOperandValue(graph.nodes[i], [&](const ValueId& id) { ++uses_[id]; });
    }
    for (ValueId id : graph.outputs) {
      if (id != kNoValue) ++uses_[id];
    }
    for (const InputMutation& mutation : graph.mutations) ++uses_[mutation.value];
  }

  int Run() {
    c10::InferenceMode no_inference(false);
    at::AutoDispatchBelowAutograd no_autograd;
    std::vector<bool> dropped(graph_.nodes.size(), false);
    int folded = 0;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (!Fold(graph_.nodes[i])) continue;
      dropped[i] = true;
      ++folded;
    }
    size_t next = 0;
    std::erase_if(graph_.nodes, [&](const Node&) { return dropped[next++]; });
    return folded;
  }

 private:
  bool Fold(const Node& node) {
    const std::optional<BatchNorm> norm = AsBatchNorm(node);
    if (!norm || maker_[norm->input] < 0 || uses_[norm->input] != 1) return false;
    for (size_t i = 1; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNoValue && uses_[node.outputs[i]] != 0) return false;
    }
    Node& made = graph_.nodes[static_cast<size_t>(maker_[norm->input])];
    const std::optional<Producer> producer = AsProducer(graph_, made);
    const TensorMeta& meta = graph_.meta(norm->input);
    if (!producer || !SameMeta(meta, graph_.meta(node.outputs[0]))) return false;
    if (meta.dtype != at::kFloat && meta.dtype != at::kDouble) return false;
    const at::Tensor weight = known_.Find(made.operands[producer->weight].value);
    if (!IsComputedIn(weight, meta.dtype) || weight.size(producer->channel_dim) != meta.sizes[1]) return false;
    at::Tensor scale, shift;
    if (!ScaleAndShift(*norm, made.operands[producer->bias].value, meta, scale, shift)) return false;
    std::vector<int64_t> broadcast(static_cast<size_t>(weight.dim()), 1);
    broadcast[static_cast<size_t>(producer->channel_dim)] = meta.sizes[1];
    const at::Tensor scaled = (weight.to(at::kDouble) * scale.view(broadcast)).to(meta.dtype);
    if (scaled.strides() != weight.strides()) return false;
    made.operands[producer->weight] = Operand::Value(AddConstant(graph_, scaled));
    made.operands[producer->bias] = Operand::Value(AddConstant(graph_, shift.to(meta.dtype)));
    made.outputs[0] = node.outputs[0];
    return true;
  }

  // Of the channels, in double precision: y = scale * x + shift, where x comes without its bias. False where something
  // is not known.
  bool ScaleAndShift(const BatchNorm& norm, ValueId bias, const TensorMeta& meta, at::Tensor& scale,
                     at::Tensor& shift) {
    const auto find = [&](ValueId id, double absent, at::Tensor& to) {
      if (id == kNoValue) {
        to = at::full({meta.sizes[1]}, absent, at::kDouble);
        return true;
      }
      const at::Tensor known = known_.Find(id);
      if (!IsComputedIn(known, meta.dtype) || known.dim() != 1 || known.size(0) != meta.sizes[1]) return false;
      to = known.to(at::kDouble);
      return true;
    };
    at::Tensor mean, var, gamma, beta, before;
    if (norm.mean == kNoValue || norm.var == kNoValue) return false;
    if (!find(norm.mean, 0, mean) || !find(norm.var, 1, var) || !find(norm.weight, 1, gamma)) return false;
    if (!find(norm.bias, 0, beta) || !find(bias, 0, before)) return false;
    scale = gamma / (var + norm.eps).sqrt();
    shift = (before - mean) * scale + beta;
    return true;
  }

  Graph& graph_;
  const MemoryFacts facts_;
  KnownValues known_;
  std::vector<int> maker_;  // by value
  std::vector<int> uses_;   // by value
};

}  // namespace

int FoldBatchNorms(Graph& graph, const FrozenValues& frozen) { return BatchNormFolder(graph, frozen).Run(); }

int FoldFrozen(Graph& graph, const FrozenValues& frozen) {
  const MemoryFacts facts(graph);
  KnownValues known(graph, frozen);
  std::vector<ValueId> folded;
  std::vector<bool> drop(graph.nodes.size(), false);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.outputs.size() != 1 || node.outputs[0] == kNoValue) continue;
    const ValueId id = node.outputs[0];
    if (facts.Escapes(id) || facts.FeedsMutation(id) || known.IsMemoryOfInput(id)) continue;
    // A tensor that depends on nothing frozen was left by FoldConstants for a reason.
    bool reads = false;
    ForEachOperandValue(node, [&](const ValueId&) { reads = true; });
    if (!reads || !known.Find(id).defined()) continue;
    drop[i] = true;
    folded.push_back(id);
  }
  for (ValueId id : folded) graph.constants.push_back({id, known.Find(id)});
  size_t next = 0;
  std::erase_if(graph.nodes, [&](const Node&) { return drop[next++]; });
  return static_cast<int>(folded.size());
}

absl::Status RunFrozenPipeline(Graph& graph, const FrozenValues& frozen, Timings* timings) {
  {
    ScopedTiming timing(timings, "fold_batch_norms");
    FoldBatchNorms(graph, frozen);
  }
  if (absl::Status status = RunPipeline(graph, timings); !status.ok()) return status;
  ScopedTiming timing(timings, "fold_frozen");
  FoldFrozen(graph, frozen);
  PackWeights(graph, frozen);
  EliminateDeadCode(graph);
  return absl::OkStatus();
}

}  // namespace framejit
