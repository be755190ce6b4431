// Calling a recorded node: its operands pushed as the operator's boxed arguments, its results taken from the stack.
#ifndef FRAMEJIT_GRAPH_FAKE_CALL_NODE_H_
#define FRAMEJIT_GRAPH_FAKE_CALL_NODE_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/stack.h>

#include <utility>

#include "graph/graph.h"

namespace framejit {

// `tensor_of(ValueId)` gives the tensor of an operand; it is not called for absent ones.
template <typename TensorOf>
void PushOperands(const Node& node, TensorOf tensor_of, torch::jit::Stack& stack) {
  for (size_t i = 0; i < node.operands.size(); ++i) {
    const Operand& operand = node.operands[i];
    const c10::Type& type = *node.op.schema().arguments()[i].type();
    switch (operand.kind) {
      case Operand::Kind::kConstant:
        stack.push_back(operand.constant);
        break;
      case Operand::Kind::kValue:
        if (operand.value != kNoValue) {
          stack.emplace_back(tensor_of(operand.value));
        } else if (type.kind() == c10::TypeKind::TensorType) {
          stack.emplace_back(at::Tensor());
        } else {
          stack.emplace_back();
        }
        break;
      case Operand::Kind::kValueList: {
        const bool optional =
            type.kind() == c10::TypeKind::ListType && type.containedType(0)->kind() == c10::TypeKind::OptionalType;
        c10::List<at::Tensor> tensors;
        c10::List<std::optional<at::Tensor>> optionals;
        for (ValueId value : operand.values) {
          if (optional) {
            optionals.push_back(value == kNoValue ? std::nullopt : std::optional<at::Tensor>(tensor_of(value)));
          } else {
            tensors.push_back(value == kNoValue ? at::Tensor() : at::Tensor(tensor_of(value)));
          }
        }
        if (optional) {
          stack.emplace_back(std::move(optionals));
        } else {
          stack.emplace_back(std::move(tensors));
        }
        break;
      }
    }
  }
}

// Calls `take(ValueId, at::Tensor)` for every tensor among the results.
template <typename Take>
void TakeResults(const Node& node, torch::jit::Stack& stack, Take take) {
  size_t next = 0;
  auto one = [&](at::Tensor tensor) {
    const ValueId id = node.outputs[next++];
    if (id != kNoValue) take(id, std::move(tensor));
  };
  for (c10::IValue& result : stack) {
    if (result.isTensor()) {
      one(std::move(result).toTensor());
    } else if (result.isTensorList()) {
      for (at::Tensor& tensor : result.toTensorVector()) one(std::move(tensor));
    }
  }
  stack.clear();
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_CALL_NODE_H_
