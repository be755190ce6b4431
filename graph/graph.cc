#include "graph/graph.h"

#include <ATen/core/function_schema.h>

#include <algorithm>

#include "graph/constant.h"
#include "graph/operator_table.h"

namespace framejit {

int64_t TensorMeta::numel() const {
  int64_t n = 1;
  for (int64_t size : sizes) n *= size;
  return n;
}

bool TensorMeta::is_contiguous() const {
  int64_t expected = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] == 0) return true;
    if (sizes[i] == 1) continue;
    if (strides[i] != expected) return false;
    expected *= sizes[i];
  }
  return true;
}

Operand Operand::Value(ValueId id) {
  Operand operand;
  operand.kind = Kind::kValue;
  operand.value = id;
  return operand;
}

Operand Operand::ValueList(std::vector<ValueId> ids) {
  Operand operand;
  operand.kind = Kind::kValueList;
  operand.values = std::move(ids);
  return operand;
}

Operand Operand::Constant(c10::IValue constant) {
  Operand operand;
  operand.constant = std::move(constant);
  return operand;
}

ValueId Graph::AddValue(TensorMeta meta) {
  values.push_back(std::move(meta));
  return static_cast<ValueId>(values.size() - 1);
}

std::string OperatorName(const c10::OperatorHandle& op) {
  const c10::FunctionSchema& schema = op.schema();
  if (schema.overload_name().empty()) return schema.name();
  return schema.name() + "." + schema.overload_name();
}

std::optional<c10::OperatorHandle> FindOperator(const std::string& name) {
  size_t dot = name.find('.');
  std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
  return c10::Dispatcher::singleton().findSchema({name.substr(0, dot), overload});
}

bool MutatesArguments(const c10::OperatorHandle& op) { return op.schema().is_mutable(); }

bool IsRandom(const c10::OperatorHandle& op) { return op.hasTag(at::Tag::nondeterministic_seeded); }

std::vector<c10::Device> RandomDevices(const Graph& graph) {
  std::vector<c10::Device> devices;
  const auto add = [&](const c10::Device& device) {
    if (std::find(devices.begin(), devices.end(), device) == devices.end()) devices.push_back(device);
  };
  for (const Node& node : graph.nodes) {
    if (!IsRandom(node.op)) continue;
    if (node.outputs.empty()) {  // of all devices
      add(c10::Device(c10::kCPU));
      for (const TensorMeta& meta : graph.values) add(meta.device);
    }
    for (ValueId id : node.outputs) {
      if (id != kNoValue) add(graph.meta(id).device);
    }
  }
  return devices;
}

bool EqualsDefault(const Operand& operand, const c10::Argument& argument) {
  if (!argument.default_value().has_value() || operand.kind == Operand::Kind::kValueList) return false;
  const c10::IValue& value = *argument.default_value();
  if (operand.kind == Operand::Kind::kValue) return operand.value == kNoValue && value.isNone();
  return TypeOf(argument).kind != ArgumentKind::kTensor && SameConstant(operand.constant, value);
}

}  // namespace framejit
