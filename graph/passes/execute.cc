#include "graph/passes/execute.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "graph/constant.h"
#include "graph/passes/analysis.h"
#include "graph/passes/operator_table.h"

namespace framejit {
namespace {

c10::IValue Boxed(const Operand& operand, const c10::Argument& argument,
                  const std::function<at::Tensor(ValueId)>& tensor) {
  switch (operand.kind) {
    case Operand::Kind::kConstant:
      return operand.constant;
    case Operand::Kind::kValue:
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

at::Tensor Zeros(const TensorMeta& meta) {
  int64_t length = 1;
  for (size_t d = 0; d < meta.sizes.size(); ++d) {
    if (meta.sizes[d] == 0) length = 0;
    if (length != 0) length += (meta.sizes[d] - 1) * meta.strides[d];
  }
  return at::zeros({length}, at::TensorOptions(meta.dtype).device(meta.device)).as_strided(meta.sizes, meta.strides);
}

bool OnlyMakesViews(const Node& node) {
  const auto& returned = node.op.schema().returns();
  return !returned.empty() && std::all_of(returned.begin(), returned.end(),
                                          [](const c10::Argument& value) { return value.alias_info() != nullptr; });
}

bool RaisesForZeros(const Graph& graph, const Node& node) {
  try {
    Execute(node, [&](ValueId id) { return Zeros(graph.meta(id)); });
    return false;
  } catch (const std::exception&) {
    return true;
  }
}

}  // namespace

torch::jit::Stack Execute(const Node& node, const std::function<at::Tensor(ValueId)>& tensor) {
  c10::InferenceMode no_inference(false);  // the results may be used in graphs of either kind
  at::AutoDispatchBelowAutograd no_autograd;
  const auto& arguments = node.op.schema().arguments();
  torch::jit::Stack stack;
  for (size_t i = 0; i < node.operands.size(); ++i) stack.push_back(Boxed(node.operands[i], arguments[i], tensor));
  node.op.callBoxed(stack);
  return stack;
}

bool RaisesForItsTypes(const Graph& graph, const Node& node) {
  if (OnlyMakesViews(node) || IsUninitialized(node)) return false;
  std::string key = OperatorName(node.op);
  if (!absl::StartsWith(key, "aten::")) return false;  // an operator of the program's own is not called without need
  bool on_cpu = true;
  auto add = [&](const ValueId& id) {
    absl::StrAppend(&key, ",", static_cast<int>(graph.meta(id).dtype));
    on_cpu = on_cpu && graph.meta(id).device.is_cpu();
  };
  ForEachOperandValue(node, add);
  key += ">";
  for (ValueId id : node.outputs) {
    if (id != kNoValue) add(id);
  }
  if (!on_cpu) return false;
  static absl::Mutex mutex(absl::kConstInit);
  static auto* const known ABSL_GUARDED_BY(mutex) = new absl::flat_hash_map<std::string, bool>;
  {
    absl::MutexLock lock(&mutex);
    if (auto found = known->find(key); found != known->end()) return found->second;
  }
  const bool raises = RaisesForZeros(graph, node);
  absl::MutexLock lock(&mutex);
  return known->try_emplace(key, raises).first->second;
}

}  // namespace framejit
