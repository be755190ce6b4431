#include "graph/passes/execute.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "graph/constant.h"
#include "graph/fake/own_metas.h"
#include "graph/recorded_level.h"

namespace framejit {
namespace {

c10::IValue Boxed(const Operand& operand, const c10::Argument& argument,
                  const std::function<at::Tensor(ValueId)>& tensor) {
  switch (operand.kind) {
    case Operand::Kind::kConstant:
      return operand.constant;
    case Operand::Kind::kValue:
      if (TypeOf(argument).kind == ArgumentKind::kScalar) return tensor(operand.value).item();
      if (operand.value != kNoValue) return tensor(operand.value);
      return TypeOf(argument).optional ? c10::IValue() : c10::IValue(at::Tensor());
    case Operand::Kind::kValueList:
      break;
  }
  const bool absent = std::find(operand.values.begin(), operand.values.end(), kNoValue) != operand.values.end();
  if (!absent && argument.type()->str() == "Tensor[]") {
    c10::List<at::Tensor> list;
    for (ValueId id : operand.values) list.push_back(tensor(id));
    return list;
  }
  c10::List<std::optional<at::Tensor>> list;
  for (ValueId id : operand.values) {
    list.push_back(id == kNoValue ? std::optional<at::Tensor>() : std::optional<at::Tensor>(tensor(id)));
  }
  return list;
}

torch::jit::Stack Arguments(const Node& node, const std::function<at::Tensor(ValueId)>& tensor) {
  const auto& arguments = node.op.schema().arguments();
  torch::jit::Stack stack;
  for (size_t i = 0; i < node.operands.size(); ++i) stack.push_back(Boxed(node.operands[i], arguments[i], tensor));
  return stack;
}

}  // namespace

torch::jit::Stack Execute(const Node& node, const std::function<at::Tensor(ValueId)>& tensor) {
  c10::InferenceMode no_inference(false);  // the results may be used in graphs of either kind
  c10::impl::ExcludeDispatchKeyGuard below(kAboveRecorded);
  torch::jit::Stack stack = Arguments(node, tensor);
  node.op.callBoxed(stack);
  return stack;
}

torch::jit::Stack ExecuteOnMeta(const Node& node, const Graph& graph) {
  c10::InferenceMode no_inference(false);
  c10::impl::ExcludeDispatchKeyGuard below(kAboveRecorded);
  torch::jit::Stack stack = Arguments(node, [&](ValueId id) {
    const TensorMeta& meta = graph.meta(id);
    // Metadata are the same for all numbers that are open.
    if (meta.is_number) return at::scalar_tensor(2, at::TensorOptions().dtype(meta.dtype));
    return at::empty_strided(meta.sizes, meta.strides, at::TensorOptions().dtype(meta.dtype).device(at::kMeta));
  });
  if (const OwnMeta own = FindOwnMeta(node.op.operator_name()); own != nullptr) {
    c10::DeviceType device = c10::kCPU;
    for (ValueId id : node.outputs) {
      if (id != kNoValue && !graph.meta(id).device.is_cpu()) device = graph.meta(id).device.type();
    }
    MetaCall call(stack, node.operands.size(), device);
    own(call);
  } else {
    node.op.callBoxed(stack);
  }
  return stack;
}

}  // namespace framejit
