#include "backends/native/product_epilogues.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "backends/alias.h"
#include "backends/native/spelt_gelu.h"
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
  // The node that makes the value, if that is the operator's and nobody reads the value but `reads` operands; -1.
  int32_t OnlyFor(ValueId id, const char* name, int32_t reads = 1) const {
    const int32_t producer = id == kNoValue ? -1 : producers_[static_cast<size_t>(id)];
    if (producer < 0 || reads_[static_cast<size_t>(id)] != reads) return -1;
    return OperatorName(graph_.nodes[static_cast<size_t>(producer)].op) == name ? producer : -1;
  }

  // That of one operator, or spelt out.
  std::optional<SpeltGelu> FindGelu(size_t n) const {
    const Node& node = graph_.nodes[n];
    const auto index = static_cast<int32_t>(n);
    if (OperatorName(node.op) != "aten::gelu") return FindSpeltGelu(graph_, producers_, reads_, index);
    if (node.operands[1].constant.toStringRef() != "tanh") return std::nullopt;
    return SpeltGelu{node.operands[0].value, {index}, 1};
  }

  void Fuse(size_t n) {
    const std::optional<SpeltGelu> gelu = FindGelu(n);
    if (!gelu) return;
    const ValueId result = graph_.nodes[n].outputs[0];
    ValueId sum = gelu->x;
    const int32_t view = OnlyFor(sum, "aten::view", gelu->reads);  // linear layers on more than two dimensions
    if (view >= 0) sum = graph_.nodes[static_cast<size_t>(view)].operands[0].value;
    const int32_t product = OnlyFor(sum, "aten::addmm", view >= 0 ? 1 : gelu->reads);
    if (view >= 0 && IsReturned(graph_.meta(result).storage)) return;  // as a view, which eager's is not
    if (product < 0 || !Applies(graph_.nodes[static_cast<size_t>(product)], result)) return;
    Node fused = graph_.nodes[static_cast<size_t>(product)];
    fused.op = *fused_;
    fused.operands.push_back(Operand::Constant(true));
    removed_[static_cast<size_t>(product)] = true;
    for (const int32_t node : gelu->nodes) removed_[static_cast<size_t>(node)] = static_cast<size_t>(node) != n;
    if (view < 0) {
      fused.outputs = {result};
      graph_.nodes[n] = std::move(fused);
      return;
    }
    TensorMeta meta = graph_.meta(sum);
    meta.storage = graph_.meta(result).storage;
    const ValueId activated = graph_.AddValue(std::move(meta));
    fused.outputs = {activated};
    Node shaped = graph_.nodes[static_cast<size_t>(view)];
    shaped.operands[0] = Operand::Value(activated);
    shaped.outputs = {result};
    graph_.nodes[static_cast<size_t>(view)] = std::move(fused);
    graph_.nodes[n] = std::move(shaped);
  }

  bool IsReturned(int32_t storage) const {
    const auto lies_there = [&](ValueId id) { return id != kNoValue && graph_.meta(id).storage == storage; };
    return std::any_of(graph_.outputs.begin(), graph_.outputs.end(), lies_there);
  }

  bool Applies(const Node& product, ValueId activated) const {
    const TensorMeta &sum = graph_.meta(product.outputs[0]), &result = graph_.meta(activated);
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
