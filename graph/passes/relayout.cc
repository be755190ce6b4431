#include "graph/passes/relayout.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <exception>
#include <string>

#include "graph/passes/execute.h"
#include "graph/passes/operator_table.h"
#include "graph/print.h"

namespace framejit {
namespace {

// What it computes of the elements depends on where they lie.
bool ReadsLayout(const Node& node) { return OperatorName(node.op).starts_with("aten::as_strided"); }

}  // namespace

c10::DimVector ChannelsLastStrides(c10::IntArrayRef sizes) {
  const std::vector<int64_t> strides = c10::get_channels_last_strides_2d(sizes);
  return c10::DimVector(strides.begin(), strides.end());
}

void Relayout::Change(ValueId id, c10::DimVector strides) {
  TensorMeta& meta = graph_.values[static_cast<size_t>(id)];
  meta.strides = std::move(strides);
  changed_[static_cast<size_t>(id)] = !SameMeta(meta, recorded_[static_cast<size_t>(id)]);
}

ValueId Relayout::Copy(ValueId id, at::MemoryFormat format) {
  static const auto clone = FindOperator("aten::clone");
  const auto [copy, fresh] = copies_.try_emplace(std::pair(id, format), kNoValue);
  if (!fresh) return copy->second;
  TensorMeta meta = graph_.meta(id);
  const at::Tensor laid_out = at::empty(meta.sizes, at::TensorOptions().device(at::kMeta), format);
  meta.strides = c10::DimVector(laid_out.strides());
  meta.storage_offset = 0;
  for (const TensorMeta& other : graph_.values) meta.storage = std::max(meta.storage, other.storage);
  ++meta.storage;
  copy->second = graph_.AddValue(std::move(meta));
  Node node{*clone};
  node.operands = {Operand::Value(id), Operand::Constant(static_cast<int64_t>(format))};
  node.outputs = {copy->second};
  Keep(std::move(node));
  return copy->second;
}

bool Relayout::Follow(Node& node) {
  bool reads = false;
  ForEachOperandValue(node, [&](const ValueId& id) { reads = reads || IsChanged(id); });
  return !reads || Relay(node) || Restore(node);
}

bool Relayout::Restore(Node& node) {
  bool restored = true;
  ForEachOperandValue(node, [&](ValueId& id) {
    if (!IsChanged(id)) return;
    const TensorMeta& wanted = recorded_[static_cast<size_t>(id)];
    restored = restored && wanted.is_contiguous() && wanted.storage_offset == 0;
    if (restored) id = Copy(id, at::MemoryFormat::Contiguous);
  });
  return restored;
}

// Asks the operator how its results lie now. False where it does not work on such operands, or where the caller would
// see the difference.
bool Relayout::Relay(const Node& node) {
  if (!node.list_lengths.empty() || HasEffect(node) || ReadsLayout(node)) return false;
  torch::jit::Stack stack;
  try {
    stack = ExecuteOnMeta(node, graph_);
  } catch (const std::exception&) {
    return false;
  }
  if (stack.size() != node.outputs.size()) return false;
  for (size_t i = 0; i < stack.size(); ++i) {
    const ValueId id = node.outputs[i];
    if (id == kNoValue) continue;
    if (!stack[i].isTensor()) return false;
    const at::Tensor& result = stack[i].toTensor();
    const TensorMeta& meta = graph_.meta(id);
    // Views of a part of the memory begin at places that depend on the layout.
    const bool same = result.defined() && result.sizes() == c10::IntArrayRef(meta.sizes) &&
                      result.scalar_type() == meta.dtype && result.storage_offset() == 0 && meta.storage_offset == 0;
    if (!same || (IsHeld(id) && result.strides() != c10::IntArrayRef(meta.strides))) return false;
  }
  for (size_t i = 0; i < stack.size(); ++i) {
    if (node.outputs[i] != kNoValue) Change(node.outputs[i], c10::DimVector(stack[i].toTensor().strides()));
  }
  return true;
}

}  // namespace framejit
