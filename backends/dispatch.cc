#include "backends/dispatch.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/List.h>
#include <ATen/core/function_schema.h>

#include <algorithm>

namespace framejit {
namespace {

// The element type of a Tensor[] or Tensor?[] argument decides which of the two lists its IValue holds.
bool IsOptionalTensorList(const c10::TypePtr& type) {
  c10::TypePtr list = type;
  if (auto optional = list->cast<c10::OptionalType>()) list = optional->getElementType();
  auto list_type = list->cast<c10::ListType>();
  return list_type != nullptr && list_type->getElementType()->kind() == c10::TypeKind::OptionalType;
}

c10::IValue TensorListOperand(const c10::TypePtr& type, const std::vector<ValueId>& ids,
                              const std::vector<at::Tensor>& tensors) {
  if (IsOptionalTensorList(type)) {
    c10::List<std::optional<at::Tensor>> list;
    list.reserve(ids.size());
    for (ValueId id : ids) {
      list.push_back(id == kNoValue ? std::nullopt : std::make_optional(tensors[static_cast<size_t>(id)]));
    }
    return list;
  }
  c10::List<at::Tensor> list;
  list.reserve(ids.size());
  for (ValueId id : ids) list.push_back(id == kNoValue ? at::Tensor() : tensors[static_cast<size_t>(id)]);
  return list;
}

c10::IValue OperandValue(const c10::TypePtr& type, const Operand& operand, const std::vector<at::Tensor>& tensors) {
  switch (operand.kind) {
    case Operand::Kind::kConstant:
      return operand.constant;
    case Operand::Kind::kValue:
      if (type->kind() == c10::TypeKind::NumberType) return tensors[static_cast<size_t>(operand.value)].item();
      if (operand.value != kNoValue) return tensors[static_cast<size_t>(operand.value)];
      if (type->kind() == c10::TypeKind::OptionalType) return c10::IValue();
      return at::Tensor();
    case Operand::Kind::kValueList:
      return TensorListOperand(type, operand.values, tensors);
  }
  return c10::IValue();
}

}  // namespace

void PushOperands(const Node& node, const std::vector<at::Tensor>& tensors, torch::jit::Stack& stack) {
  const auto& arguments = node.op.schema().arguments();
  for (size_t i = 0; i < node.operands.size(); ++i) {
    stack.push_back(OperandValue(arguments[i].type(), node.operands[i], tensors));
  }
}

bool TakeResults(const Node& node, torch::jit::Stack& stack, std::vector<at::Tensor>& tensors) {
  size_t next = 0;
  auto take = [&](at::Tensor tensor) {
    if (next >= node.outputs.size()) return false;
    ValueId id = node.outputs[next++];
    if (id != kNoValue) tensors[static_cast<size_t>(id)] = std::move(tensor);
    return true;
  };
  for (c10::IValue& result : stack) {
    if (result.isTensor()) {
      if (!take(std::move(result).toTensor())) return false;
    } else if (result.isTensorList()) {
      for (const at::Tensor& element : result.toTensorVector()) {
        if (!take(element)) return false;
      }
    } else if (result.isNone() && !take(at::Tensor())) {
      return false;
    }  // a number, such as attention's longest length, is no value of the graph
  }
  return next == node.outputs.size();
}

void CallOperator(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  bool keeps_views = op.hasKernelForDispatchKey(c10::DispatchKey::ADInplaceOrView) ||
                     op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
  if (keeps_views) return op.callBoxed(stack);
  at::AutoDispatchBelowADInplaceOrView hidden;  // the guard of the autograd kernel, which is not called here
  op.callBoxed(stack);
}

void CallNode(const Node& node, std::vector<at::Tensor>& tensors) {
  torch::jit::Stack stack;
  stack.reserve(node.operands.size());
  PushOperands(node, tensors, stack);
  CallOperator(node.op, stack);
  TORCH_INTERNAL_ASSERT(TakeResults(node, stack, tensors), OperatorName(node.op),
                        " returned other results than were recorded");
}

std::vector<std::vector<ValueId>> LastUses(const Graph& graph) {
  std::vector<bool> kept(graph.values.size(), false);
  auto keep = [&](ValueId id) {
    if (id != kNoValue) kept[static_cast<size_t>(id)] = true;
  };
  for (ValueId id : graph.inputs) keep(id);
  for (const GraphConstant& constant : graph.constants) keep(constant.id);
  for (ValueId id : graph.outputs) keep(id);
  for (const InputMutation& mutation : graph.mutations) {
    keep(mutation.input);
    keep(mutation.value);
  }
  std::vector<std::vector<ValueId>> last_uses(graph.nodes.size());
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    auto visit = [&](ValueId id) {
      if (kept[static_cast<size_t>(id)]) return;
      keep(id);
      last_uses[i].push_back(id);
    };
    ForEachOperandValue(graph.nodes[i], visit);
    for (ValueId id : graph.nodes[i].outputs) {
      if (id != kNoValue) visit(id);
    }
  }
  return last_uses;
}

void ApplyWrites(std::vector<std::pair<at::Tensor, at::Tensor>> writes) {
  for (size_t i = 1; i < writes.size(); ++i) {
    at::Tensor& value = writes[i].second;
    for (size_t j = 0; j < i; ++j) {
      if (value.is_alias_of(writes[j].first)) {
        value = value.clone();
        break;
      }
    }
  }
  for (const auto& [target, value] : writes) {
    if (!target.is_same(value)) target.copy_(value);
  }
}

}  // namespace framejit
