#include "backends/alias.h"

#include <ATen/core/function_schema.h>

#include "graph/operator_table.h"

namespace framejit {
namespace {

// Views by definition of the operator. `as_strided` is left out: its offset is absolute, and that of a graph input is
// not part of what was recorded.
const OperatorTable<bool>& ViewOperators() {
  static const auto* table = new OperatorTable<bool>{
      {"aten::view", true},
      {"aten::_unsafe_view", true},
      {"aten::_reshape_alias", true},
      {"aten::expand", true},
      {"aten::permute", true},
      {"aten::transpose.int", true},
      {"aten::t", true},
      {"aten::unsqueeze", true},
      {"aten::squeeze", true},
      {"aten::squeeze.dim", true},
      {"aten::squeeze.dims", true},
      {"aten::select.int", true},
      {"aten::slice.Tensor", true},
      {"aten::unbind.int", true},
      {"aten::split.Tensor", true},
      {"aten::split_with_sizes", true},
      {"aten::detach", true},
      {"aten::alias", true},
      {"aten::diagonal", true},
      {"aten::unfold", true},
      {"aten::lift_fresh", true},
  };
  return *table;
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
  if (node.operands[0].value == kNoValue || ViewOperators().Find(node.op) == nullptr) return false;
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
