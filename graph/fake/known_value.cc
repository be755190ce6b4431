// KnownValue and RealValue: find the operators that a value comes of, by memory rather than by value so that writes
// count, and run them for real, in the order in which they were recorded.
#include "graph/fake/known_value.h"

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "graph/fake/call_node.h"
#include "graph/fake/mutation.h"
#include "graph/fake/op_info.h"
#include "graph/recorded_level.h"

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
  // `real`: the tensors that the inputs stand for; null: what comes of an input is not known.
  History(const Graph& graph, const std::vector<at::Tensor>* real) : graph_(graph), real_(real) {
    if (real == nullptr) {
      for (const ValueId input : graph.inputs) inputs_.insert(graph.meta(input).storage);
    }
  }

  std::optional<at::Tensor> Run(ValueId id) {
    if (!Need(id) || !Collect()) return std::nullopt;
    FakeSession::Pause pause;
    c10::InferenceMode normal(false);
    c10::impl::ExcludeDispatchKeyGuard below(kAboveRecordedViews);
    for (const GraphConstant& constant : graph_.constants) {
      if (values_.contains(constant.id)) tensors_[constant.id] = constant.tensor.clone();
    }
    TakeInputs();
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (nodes_.contains(i) && !RunNode(graph_.nodes[i])) return std::nullopt;
    }
    auto found = tensors_.find(id);
    return found == tensors_.end() ? std::nullopt : std::optional<at::Tensor>(found->second);
  }

 private:
  bool Need(ValueId id) {
    const TensorMeta& meta = graph_.meta(id);
    if (inputs_.contains(meta.storage) || !meta.device.is_cpu()) return false;
    if (real_ == nullptr && meta.numel() > kMaxElements) return false;
    values_.insert(id);
    if (meta.storage >= 0) storages_.insert(meta.storage);
    return true;
  }

  // Those whose memory is written are copies, which share memory where the inputs do.
  void TakeInputs() {
    if (real_ == nullptr) return;
    absl::flat_hash_set<int32_t> written;
    for (const size_t index : nodes_) {
      ForEachWrittenValue(graph_.nodes[index], [&](ValueId id) { written.insert(graph_.meta(id).storage); });
    }
    absl::flat_hash_map<int32_t, c10::Storage> copies;
    for (size_t i = 0; i < graph_.inputs.size(); ++i) {
      const ValueId id = graph_.inputs[i];
      const at::Tensor& real = (*real_)[i];
      if (!values_.contains(id) || !written.contains(graph_.meta(id).storage)) {
        tensors_[id] = real;
        continue;
      }
      c10::Storage& copy = copies[graph_.meta(id).storage];
      if (!copy) {
        const auto bytes = static_cast<int64_t>(real.storage().nbytes());
        copy = at::empty({0}, real.options().dtype(at::kByte).requires_grad(false))
                   .set_(real.storage(), 0, {bytes}, {1})
                   .clone()
                   .storage();
      }
      tensors_[id] = at::empty({0}, real.options().requires_grad(false))
                         .set_(copy, real.storage_offset(), real.sizes(), real.strides());
      if (real.is_conj()) tensors_[id]._set_conj(true);
      if (real.is_neg()) tensors_[id]._set_neg(true);
    }
  }

  template <typename Visit>
  static void ForEachWrittenValue(const Node& node, Visit visit) {
    uint64_t written = OpInfoOf(node.op).written_arguments;
    if (WritesRunningStatistics(node)) written |= 1ULL << kBatchNormMean | 1ULL << kBatchNormVariance;
    for (size_t i = 0; i < node.operands.size() && i < 64; ++i) {
      if ((written >> i & 1) == 0) continue;
      const Operand& operand = node.operands[i];
      if (operand.value != kNoValue) visit(operand.value);
      for (const ValueId id : operand.values) {
        if (id != kNoValue) visit(id);
      }
    }
  }

  bool Makes(const Node& node) const {
    for (const ValueId id : node.outputs) {
      if (id != kNoValue && (values_.contains(id) || storages_.contains(graph_.meta(id).storage))) return true;
    }
    bool makes = false;
    ForEachWrittenValue(node, [&](ValueId id) { makes |= storages_.contains(graph_.meta(id).storage); });
    return makes;
  }

  // All nodes that make or write needed memory, until there are no more. False where an input is among what they read.
  bool Collect() {
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = graph_.nodes.size(); i-- > 0;) {
        const Node& node = graph_.nodes[i];
        if (nodes_.contains(i) || !Makes(node)) continue;
        if ((real_ == nullptr && nodes_.size() >= kMaxNodes) || !IsRepeatable(node)) return false;
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
  const std::vector<at::Tensor>* real_;
  absl::flat_hash_set<int32_t> inputs_;  // storages of those that are not known
  absl::flat_hash_set<ValueId> values_;
  absl::flat_hash_set<int32_t> storages_;
  absl::flat_hash_set<size_t> nodes_;
  absl::flat_hash_map<ValueId, at::Tensor> tensors_;
};

}  // namespace

std::optional<at::Tensor> KnownValue(const FakeRecording& recording, ValueId id) {
  try {
    return History(recording.graph, nullptr).Run(id);
  } catch (const std::exception&) {
    return std::nullopt;  // an operator raised: the program will see that when it runs
  }
}

std::optional<at::Tensor> RealValue(const FakeRecording& recording, ValueId id) {
  const std::vector<at::Tensor>& real = recording.real_inputs;
  if (real.size() != recording.graph.inputs.size()) return std::nullopt;
  try {
    return History(recording.graph, &real).Run(id);
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

}  // namespace framejit
