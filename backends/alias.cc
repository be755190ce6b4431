#include "backends/alias.h"

#include <ATen/core/function_schema.h>

#include "absl/container/flat_hash_set.h"

namespace framejit {
namespace {

// Views by definition of the operator. `as_strided` is left out: its offset is absolute, and that of a graph input is
// not part of what was recorded.
const absl::flat_hash_set<std::string>& ViewOperators() {
  static const auto* names = new absl::flat_hash_set<std::string>{"aten::view",
                                                                  "aten::_unsafe_view",
                                                                  "aten::_reshape_alias",
                                                                  "aten::expand",
                                                                  "aten::permute",
                                                                  "aten::transpose.int",
                                                                  "aten::t",
                                                                  "aten::unsqueeze",
                                                                  "aten::squeeze",
                                                                  "aten::squeeze.dim",
                                                                  "aten::squeeze.dims",
                                                                  "aten::select.int",
                                                                  "aten::slice.Tensor",
                                                                  "aten::unbind.int",
                                                                  "aten::split.Tensor",
                                                                  "aten::split_with_sizes",
                                                                  "aten::detach",
                                                                  "aten::alias",
                                                                  "aten::diagonal",
                                                                  "aten::unfold",
                                                                  "aten::lift_fresh"};
  return *names;
}

bool IsPlain(const TensorMeta& meta) {
  return (meta.device.is_cpu() || meta.device.is_cuda()) && !meta.is_conj && !meta.is_neg &&
         !c10::isComplexType(meta.dtype);
}

bool MayAliasArgument(const Node& node) {
  for (const c10::Argument& result : node.op.schema().returns()) {
    if (result.alias_info() != nullptr) return true;
  }
  return false;
}

// Views whose schemas do not say so: autograd is what they keep it from.
bool IsUndeclaredView(const Node& node) {
  const std::string& name = node.op.schema().name();
  return name == "aten::unsafe_chunk" || name == "aten::unsafe_split" || name == "aten::unsafe_split_with_sizes";
}

// The first tensor operand that the schema lets the results alias; kNoValue where there is none.
ValueId AliasedOperand(const Graph& graph, const Node& node) {
  if (IsMetadataView(graph, node)) return node.operands[0].value;
  if (IsUndeclaredView(node)) return node.operands[0].value;
  if (!MayAliasArgument(node)) return kNoValue;
  const auto& arguments = node.op.schema().arguments();
  for (size_t i = 0; i < node.operands.size(); ++i) {
    if (arguments[i].alias_info() == nullptr) continue;
    const Operand& operand = node.operands[i];
    if (operand.kind == Operand::Kind::kValue) return operand.value;
    if (operand.kind == Operand::Kind::kValueList && !operand.values.empty()) return operand.values[0];
  }
  return kNoValue;
}

}  // namespace

bool IsMetadataView(const Graph& graph, const Node& node) {
  if (node.operands.empty() || node.operands[0].kind != Operand::Kind::kValue) return false;
  if (node.operands[0].value == kNoValue || !ViewOperators().contains(OperatorName(node.op))) return false;
  const TensorMeta& base = graph.meta(node.operands[0].value);
  for (ValueId id : node.outputs) {
    if (id == kNoValue || !IsPlain(base) || !IsPlain(graph.meta(id)) || graph.meta(id).dtype != base.dtype)
      return false;
  }
  return true;
}

std::vector<ValueId> AliasRoots(const Graph& graph) {
  std::vector<ValueId> roots(graph.values.size());
  for (size_t i = 0; i < roots.size(); ++i) roots[i] = static_cast<ValueId>(i);
  for (const Node& node : graph.nodes) {
    ValueId operand = AliasedOperand(graph, node);
    if (operand == kNoValue) continue;
    for (ValueId id : node.outputs) {
      if (id != kNoValue) roots[static_cast<size_t>(id)] = roots[static_cast<size_t>(operand)];
    }
  }
  return roots;
}

std::vector<int32_t> Producers(const Graph& graph) {
  std::vector<int32_t> producers(graph.values.size(), -1);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    for (ValueId id : graph.nodes[i].outputs) {
      if (id != kNoValue) producers[static_cast<size_t>(id)] = static_cast<int32_t>(i);
    }
  }
  return producers;
}

}  // namespace framejit
