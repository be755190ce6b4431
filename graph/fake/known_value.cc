// KnownValue: finds the operators that a value comes of, by memory rather than by value so that writes count, and runs
// them for real, in the order in which they were recorded.
#include "graph/fake/known_value.h"

#include <c10/core/InferenceMode.h>

#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "graph/fake/call_node.h"
#include "graph/fake/mutation.h"
#include "graph/fake/op_info.h"

namespace framejit {
namespace {

constexpr size_t kMaxNodes = 64;
constexpr int64_t kMaxElements = 1 << 12;

// Whether running the operator again gives what it gave.
bool IsRepeatable(const Node& node) {
  return !IsRandom(node.op) && node.op.schema().name().find("empty") == std::string::npos &&
         node.op.schema().name().rfind("aten::", 0) == 0;
}

class History {
 public:
  explicit History(const Graph& graph) : graph_(graph) {
    for (const ValueId input : graph.inputs) inputs_.insert(graph.meta(input).storage);
  }

  std::optional<at::Tensor> Run(ValueId id) {
    if (!Need(id) || !Collect()) return std::nullopt;
    FakeSession::Pause pause;
    c10::InferenceMode normal(false);
    c10::impl::ExcludeDispatchKeyGuard below_autograd(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
    for (const GraphConstant& constant : graph_.constants) {
      if (values_.contains(constant.id)) tensors_[constant.id] = constant.tensor.clone();
    }
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (nodes_.contains(i) && !RunNode(graph_.nodes[i])) return std::nullopt;
    }
    auto found = tensors_.find(id);
    return found == tensors_.end() ? std::nullopt : std::optional<at::Tensor>(found->second);
  }

 private:
  bool Need(ValueId id) {
    const TensorMeta& meta = graph_.meta(id);
    if (inputs_.contains(meta.storage) || meta.numel() > kMaxElements || !meta.device.is_cpu()) return false;
    values_.insert(id);
    if (meta.storage >= 0) storages_.insert(meta.storage);
    return true;
  }

  bool Makes(const Node& node) const {
    for (const ValueId id : node.outputs) {
      if (id != kNoValue && (values_.contains(id) || storages_.contains(graph_.meta(id).storage))) return true;
    }
    uint64_t written = OpInfoOf(node.op).written_arguments;
    if (WritesRunningStatistics(node)) written |= 1ULL << kBatchNormMean | 1ULL << kBatchNormVariance;
    bool makes = false;
    for (size_t i = 0; i < node.operands.size() && i < 64; ++i) {
      if ((written >> i & 1) == 0) continue;
      const Operand& operand = node.operands[i];
      if (operand.value != kNoValue) makes |= storages_.contains(graph_.meta(operand.value).storage);
      for (const ValueId id : operand.values) {
        if (id != kNoValue) makes |= storages_.contains(graph_.meta(id).storage);
      }
    }
    return makes;
  }

  // All nodes that make or write needed memory, until there are no more. False where an input is among what they read.
  bool Collect() {
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = graph_.nodes.size(); i-- > 0;) {
        const Node& node = graph_.nodes[i];
        if (nodes_.contains(i) || !Makes(node)) continue;
        if (nodes_.size() >= kMaxNodes || !IsRepeatable(node)) return false;
        nodes_.insert(i);
        changed = true;
        bool known = true;
        ForEachOperandValue(node, [&](ValueId id) { known &= Need(id); });
        for (const ValueId id : node.outputs) known &= id == kNoValue || Need(id);
        if (!known) return false;
      }
    }
    return true;
  }

  bool RunNode(const Node& node) {
    torch::jit::Stack stack;
    bool complete = true;
    ForEachOperandValue(node, [&](ValueId id) { complete &= tensors_.contains(id); });
    if (!complete) return false;
    PushOperands(node, [&](ValueId id) { return tensors_.at(id); }, stack);
    node.op.callBoxed(stack);
    TakeResults(node, stack, [&](ValueId id, at::Tensor tensor) { tensors_[id] = std::move(tensor); });
    return true;
  }

  const Graph& graph_;
  absl::flat_hash_set<int32_t> inputs_;  // storages
  absl::flat_hash_set<ValueId> values_;
  absl::flat_hash_set<int32_t> storages_;
  absl::flat_hash_set<size_t> nodes_;
  absl::flat_hash_map<ValueId, at::Tensor> tensors_;
};

}  // namespace

std::optional<at::Tensor> KnownValue(const FakeRecording& recording, ValueId id) {
  try {
    return History(recording.graph).Run(id);
  } catch (const std::exception&) {
    return std::nullopt;  // an operator raised: the program will see that when it runs
  }
}

}  // namespace framejit
