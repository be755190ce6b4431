#include "backends/native/product_epilogues.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "backends/alias.h"
#include "graph/number_operand.h"
#include "graph/operator_table.h"

namespace framejit::native {
namespace {

// Operands of addmm.
enum Position { kBias, kLeft, kRight, kBeta, kAlpha };

class EpilogueFuser {
 public:
  explicit EpilogueFuser(Graph& graph)
      : graph_(graph),
        producers_(Producers(graph)),
        reads_(graph.values.size()),
        removed_(graph.nodes.size()),
        fused_(FindOperator("aten::_addmm_activation")) {
    const auto read = [&](ValueId id) {
      if (id != kNoValue) ++reads_[static_cast<size_t>(id)];
    };
    for (const Node& node : graph.nodes) ForEachOperandValue(node, read);
    for (ValueId id : graph.outputs) read(id);
    for (const InputMutation& mutation : graph.mutations) read(mutation.value);
  }

  void Run() {
    if (!fused_) return;
    for (size_t n = 0; n < graph_.nodes.size(); ++n) Fuse(n);
    std::vector<Node> kept;
    for (size_t n = 0; n < graph_.nodes.size(); ++n) {
      if (!removed_[n]) kept.push_back(std::move(graph_.nodes[n]));
    }
    graph_.nodes = std::move(kept);
  }

 private:
  // The node that makes the value, if that is the operator's and nobody else reads the value; -1.
  int32_t OnlyFor(ValueId id, const char* name) const {
    const int32_t producer = id == kNoValue ? -1 : producers_[static_cast<size_t>(id)];
    if (producer < 0 || reads_[static_cast<size_t>(id)] != 1) return -1;
    return OperatorName(graph_.nodes[static_cast<size_t>(producer)].op) == name ? producer : -1;
  }

  void Fuse(size_t n) {
    if (OperatorName(graph_.nodes[n].op) != "aten::gelu") return;
    const Node gelu = graph_.nodes[n];
    if (gelu.operands[1].constant.toStringRef() != "tanh") return;
    ValueId sum = gelu.operands[0].value;
    const int32_t view = OnlyFor(sum, "aten::view");  // linear layers on more than two dimensions
    if (view >= 0) sum = graph_.nodes[static_cast<size_t>(view)].operands[0].value;
    const int32_t product = OnlyFor(sum, "aten::addmm");
    if (view >= 0 && IsReturned(graph_.meta(gelu.outputs[0]).storage)) return;  // as a view, which eager's is not
    if (product < 0 || !Applies(graph_.nodes[static_cast<size_t>(product)], gelu)) return;
    Node fused = graph_.nodes[static_cast<size_t>(product)];
    fused.op = *fused_;
    fused.operands.push_back(Operand::Constant(true));
    removed_[static_cast<size_t>(product)] = true;
    if (view < 0) {
      fused.outputs = gelu.outputs;
      graph_.nodes[n] = std::move(fused);
      return;
    }
    TensorMeta meta = graph_.meta(sum);
    meta.storage = graph_.meta(gelu.outputs[0]).storage;
    const ValueId result = graph_.AddValue(std::move(meta));
    fused.outputs = {result};
    Node shaped = graph_.nodes[static_cast<size_t>(view)];
    shaped.operands[0] = Operand::Value(result);
    shaped.outputs = gelu.outputs;
    graph_.nodes[static_cast<size_t>(view)] = std::move(fused);
    graph_.nodes[n] = std::move(shaped);
  }

  bool IsReturned(int32_t storage) const {
    const auto lies_there = [&](ValueId id) { return id != kNoValue && graph_.meta(id).storage == storage; };
    return std::any_of(graph_.outputs.begin(), graph_.outputs.end(), lies_there);
  }

  bool Applies(const Node& product, const Node& gelu) const {
    const TensorMeta &sum = graph_.meta(product.outputs[0]), &result = graph_.meta(gelu.outputs[0]);
    const bool narrow = sum.dtype == at::kHalf || sum.dtype == at::kBFloat16;
    const auto is_one = [&](Position p) {
      return !IsNumberOperand(product, p) && product.operands[p].constant.toScalar().equal(1);
    };
    return narrow && sum.is_contiguous() && result.is_contiguous() && result.dtype == sum.dtype && sum.numel() > 0 &&
           graph_.meta(product.operands[kBias].value).sizes.size() == 1 && is_one(kBeta) && is_one(kAlpha);
  }

  Graph& graph_;
  const std::vector<int32_t> producers_;
  std::vector<int32_t> reads_;  // by value: how often it is read
  std::vector<bool> removed_;   // by node
  const std::optional<c10::OperatorHandle> fused_;
};

}  // namespace

void FuseProductEpilogues(Graph& graph) { EpilogueFuser(graph).Run(); }

}  // namespace framejit::native
