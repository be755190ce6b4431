// Common subexpression elimination: a node equal to an earlier one (operator, operands, metadata of the results) gives
// way to it. Two results that both reach the caller stay two tensors, as in eager mode: the caller may write one of
// them. Nodes with effects, and nodes whose memory an operator of the graph writes, are left alone.
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/hash/hash.h"
#include "graph/constant.h"
#include "graph/passes/analysis.h"
#include "graph/passes/pipeline.h"

namespace framejit {
namespace {

size_t HashNode(const Node& node) {
  size_t hash = absl::HashOf(&node.op.schema());
  for (const Operand& operand : node.operands) {
    hash = operand.kind == Operand::Kind::kConstant ? absl::HashOf(hash, HashConstant(operand.constant))
                                                    : absl::HashOf(hash, operand.value, operand.values);
  }
  return hash;
}

bool SameOperands(const Node& a, const Node& b) {
  if (a.operands.size() != b.operands.size()) return false;
  for (size_t i = 0; i < a.operands.size(); ++i) {
    const Operand& x = a.operands[i];
    const Operand& y = b.operands[i];
    if (x.kind != y.kind || x.value != y.value || x.values != y.values) return false;
    if (x.kind == Operand::Kind::kConstant && !SameConstant(x.constant, y.constant)) return false;
  }
  return true;
}

class Eliminator {
 public:
  explicit Eliminator(Graph& graph) : graph_(graph), facts_(graph), map_(graph) {}

  int Run() {
    MergeConstants();
    {
      KeptNodes kept(graph_.nodes);
      seen_.reserve(graph_.nodes.size());
      for (Node& node : graph_.nodes) {
        map_.ApplyTo(node);
        if (MayMerge(node)) {
          auto& candidates = seen_[HashNode(node)];
          if (MergeIntoOneOf(candidates, kept, node)) continue;
          candidates.push_back(static_cast<int>(kept.size()));
        }
        kept.Keep(node);
      }
    }
    map_.ApplyToResults(graph_);
    facts_.Apply(graph_);
    return merged_;
  }

 private:
  bool MayMerge(const Node& node) const {
    return !HasEffect(node) && !IsUninitialized(node) && !facts_.TouchesWritten(node);
  }

  void MergeConstants() {
    absl::flat_hash_map<size_t, absl::InlinedVector<GraphConstant, 1>> seen;
    std::vector<GraphConstant> kept;
    for (const GraphConstant& constant : graph_.constants) {
      const at::Tensor& tensor = constant.tensor;
      auto& candidates = seen[absl::HashOf(tensor.scalar_type(), tensor.numel(), tensor.dim())];
      auto same = std::find_if(candidates.begin(), candidates.end(), [&](const GraphConstant& earlier) {
        return SameTensor(earlier.tensor, tensor) && MayBecome(constant.id, earlier.id);
      });
      if (same != candidates.end()) {
        Become(constant.id, same->id);
        ++merged_;
        continue;
      }
      candidates.push_back(constant);
      kept.push_back(constant);
    }
    graph_.constants = std::move(kept);
  }

  bool MergeIntoOneOf(const absl::InlinedVector<int, 1>& candidates, const KeptNodes& kept, const Node& node) {
    for (int index : candidates) {
      const Node& earlier = kept[static_cast<size_t>(index)];
      bool same = &earlier.op.schema() == &node.op.schema() && earlier.list_lengths == node.list_lengths &&
                  earlier.outputs.size() == node.outputs.size() && SameOperands(earlier, node);
      for (size_t i = 0; same && i < node.outputs.size(); ++i) same = MayBecome(node.outputs[i], earlier.outputs[i]);
      if (!same) continue;
      for (size_t i = 0; i < node.outputs.size(); ++i) Become(node.outputs[i], earlier.outputs[i]);
      ++merged_;
      return true;
    }
    return false;
  }

  bool MayBecome(ValueId later, ValueId earlier) const {
    if (later == kNoValue || earlier == kNoValue) return later == earlier;
    if (!SameMeta(graph_.meta(later), graph_.meta(earlier))) return false;
    if (facts_.IsOutput(later) && (facts_.IsOutput(earlier) || returned_.contains(earlier))) return false;
    int32_t storage = facts_.StorageOf(later);
    if (storage >= 0 && storage == facts_.StorageOf(earlier)) return true;
    return !(facts_.Escapes(later) && facts_.Escapes(earlier));
  }

  void Become(ValueId later, ValueId earlier) {
    if (later == kNoValue) return;
    if (facts_.IsOutput(later)) returned_.emplace(earlier, later);
    map_.Replace(later, earlier);
    int32_t from = facts_.StorageOf(later);
    int32_t into = facts_.StorageOf(earlier);
    if (from >= 0 && into >= 0) facts_.MergeStorage(from, into);
  }

  Graph& graph_;
  MemoryFacts facts_;
  ValueMap map_;
  absl::flat_hash_map<size_t, absl::InlinedVector<int, 1>> seen_;
  absl::flat_hash_map<ValueId, ValueId> returned_;  // became an output in place of the second
  int merged_ = 0;
};

}  // namespace

int EliminateCommonSubexpressions(Graph& graph) { return Eliminator(graph).Run(); }

}  // namespace framejit
