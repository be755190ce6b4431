#include "graph/passes/known_values.h"

#include <algorithm>

#include "graph/passes/execute.h"
#include "graph/print.h"

namespace framejit {
namespace {

// A result much larger than what it is computed of is not worth its memory.
constexpr int64_t kSmall = 1 << 14;
constexpr int64_t kGrowth = 2;

}  // namespace

KnownValues::KnownValues(const Graph& graph, const FrozenValues& frozen)
    : graph_(graph), facts_(graph), maker_(graph.values.size(), -1), known_(graph.values.size()) {
  for (const GraphConstant& constant : graph.constants) known_[constant.id] = constant.tensor;
  for (const auto& [id, tensor] : frozen) {
    known_[id] = tensor;
    frozen_storages_.push_back(graph.meta(id).storage);
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (Computable(graph.nodes[i])) maker_[graph.nodes[i].outputs[0]] = static_cast<int>(i);
  }
}

bool KnownValues::Computable(const Node& node) const {
  if (node.outputs.size() != 1 || node.outputs[0] == kNoValue || !node.list_lengths.empty()) return false;
  if (HasEffect(node) || IsUninitialized(node) || facts_.TouchesWritten(node)) return false;
  int64_t read = 0;
  ForEachOperandValue(node, [&](const ValueId& id) { read += graph_.meta(id).numel(); });
  const TensorMeta& meta = graph_.meta(node.outputs[0]);
  return meta.device.is_cpu() && meta.numel() <= std::max(kSmall, kGrowth * read);
}

at::Tensor KnownValues::Find(ValueId id) {
  if (static_cast<size_t>(id) >= known_.size()) return {};
  if (known_[id].defined() || maker_[id] < 0) return known_[id];
  const Node& node = graph_.nodes[static_cast<size_t>(std::exchange(maker_[id], -1))];
  bool complete = true;
  ForEachOperandValue(node, [&](const ValueId& operand) { complete = complete && Find(operand).defined(); });
  if (!complete) return {};
  try {
    const torch::jit::Stack stack = Execute(node, [this](ValueId operand) { return known_[operand]; });
    if (stack.size() != 1 || !stack[0].isTensor()) return {};
    const at::Tensor& result = stack[0].toTensor();
    const TensorMeta& meta = graph_.meta(id);
    const bool expected = result.scalar_type() == meta.dtype && result.sizes() == c10::IntArrayRef(meta.sizes) &&
                          result.strides() == c10::IntArrayRef(meta.strides) && result.device() == meta.device;
    if (expected) known_[id] = result;
  } catch (const std::exception&) {
    return {};  // then the call raises it, in its place
  }
  return known_[id];
}

bool KnownValues::IsMemoryOfInput(ValueId id) const {
  const int32_t storage = facts_.StorageOf(id);
  return storage < 0 || std::find(frozen_storages_.begin(), frozen_storages_.end(), storage) != frozen_storages_.end();
}

ValueId AddConstant(Graph& graph, at::Tensor tensor) {
  TensorMeta meta;
  meta.dtype = tensor.scalar_type();
  meta.device = tensor.device();
  meta.sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
  // What oneDNN packed has no strides.
  meta.strides = ContiguousStrides(meta.sizes);
  if (!tensor.is_mkldnn()) meta.strides.assign(tensor.strides().begin(), tensor.strides().end());
  for (const TensorMeta& other : graph.values) meta.storage = std::max(meta.storage, other.storage);
  ++meta.storage;
  const ValueId id = graph.AddValue(std::move(meta));
  graph.constants.push_back({id, std::move(tensor)});
  return id;
}

}  // namespace framejit
