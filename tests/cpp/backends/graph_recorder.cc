#include "tests/cpp/backends/graph_recorder.h"

#include <gtest/gtest.h>

#include "backends/cpu/cpu_backend.h"
#include "backends/dispatch.h"
#include "backends/interp/interp.h"

namespace framejit {
namespace {

c10::OperatorHandle FindOperator(const std::string& name) {
  size_t dot = name.find('.');
  std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.substr(0, dot).c_str(), overload.c_str());
}

Operand OperandOf(const Arg& arg, const c10::Argument& argument) {
  if (arg.is_list) return Operand::ValueList(arg.values);
  if (arg.is_value) return Operand::Value(arg.values[0]);
  c10::TypePtr type = argument.type();
  if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
  if (type->kind() == c10::TypeKind::TensorType) return Operand::Value(kNoValue);
  return Operand::Constant(arg.constant);
}

// A copy with the same strides, offset and place in its storage.
at::Tensor CopyExactly(const at::Tensor& tensor) {
  at::Tensor storage = at::empty({0}, tensor.options()).set_(tensor.storage()).clone();
  return storage.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset()).detach();
}

// The bound of the difference of two results that round differently.
double Tolerance(const at::Tensor& expected) {
  if (!at::isFloatingType(expected.scalar_type()) || expected.numel() == 0) return 0;
  at::Tensor finite = expected.to(at::kDouble).nan_to_num(0, 0, 0).abs();
  double largest = std::max(finite.max().item<double>(), 1e-3);
  switch (expected.scalar_type()) {
    case at::ScalarType::Double:
      return largest * 1e-13;
    case at::ScalarType::Float:
      return largest * 2e-6;
    case at::ScalarType::Half:
      return largest * 1.0 / 1024;  // one unit in the last place
    case at::ScalarType::BFloat16:
      return largest * 1.0 / 128;
    default:
      return 0;  // torch's enumeration; no other floating type is tested
  }
}

void ExpectSameTensor(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.defined(), expected.defined()) << what;
  if (!expected.defined()) return;
  EXPECT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  EXPECT_EQ(actual.strides(), expected.strides()) << what;
  EXPECT_EQ(actual.storage_offset(), expected.storage_offset()) << what;
  at::Tensor a = actual.to(at::kDouble), e = expected.to(at::kDouble);
  if (at::equal(a.isnan(), e.isnan()) && at::equal(a.isinf(), e.isinf())) {
    double difference = a.numel() == 0 ? 0 : (a - e).nan_to_num(0, 0, 0).abs().max().item<double>();
    EXPECT_LE(difference, Tolerance(expected)) << what;
  } else {
    ADD_FAILURE() << what << ": NaN or infinity in other places\n" << actual << "\nexpected\n" << expected;
  }
}

int CountLines(const std::string& text, const std::string& prefix) {
  int count = 0;
  for (size_t at = 0; at != std::string::npos && at < text.size();
       at = text.find('\n', at), at += at != std::string::npos) {
    if (text.compare(at, prefix.size(), prefix) == 0) ++count;
  }
  return count;
}

}  // namespace

Arg Arg::Value(ValueId id) {
  Arg arg{c10::IValue()};
  arg.is_value = true;
  arg.values = {id};
  return arg;
}

Arg Arg::List(std::vector<ValueId> ids) {
  Arg arg{c10::IValue()};
  arg.is_list = true;
  arg.values = std::move(ids);
  return arg;
}

ValueId GraphRecorder::Add(const at::Tensor& tensor) {
  TensorMeta meta;
  if (tensor.defined()) {
    meta.dtype = tensor.scalar_type();
    meta.device = tensor.device();
    meta.sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
    meta.strides.assign(tensor.strides().begin(), tensor.strides().end());
    meta.storage_offset = tensor.storage_offset();
    meta.is_conj = tensor.is_conj();
    meta.is_neg = tensor.is_neg();
  }
  tensors_.push_back(tensor);
  return graph.AddValue(std::move(meta));
}

Arg GraphRecorder::Input(at::Tensor tensor) {
  ValueId id = Add(tensor);
  graph.inputs.push_back(id);
  inputs.push_back(std::move(tensor));
  return Arg::Value(id);
}

Arg GraphRecorder::Constant(at::Tensor tensor) {
  ValueId id = Add(tensor);
  graph.constants.push_back({id, std::move(tensor)});
  return Arg::Value(id);
}

std::vector<Arg> GraphRecorder::CallAll(const std::string& op, std::vector<Arg> operands) {
  Node node{FindOperator(op)};
  const auto& arguments = node.op.schema().arguments();
  for (size_t i = operands.size(); i < arguments.size(); ++i) {
    operands.push_back(Arg(arguments[i].default_value().value_or(c10::IValue())));
  }
  for (size_t i = 0; i < arguments.size(); ++i) node.operands.push_back(OperandOf(operands[i], arguments[i]));
  RecordedLevelGuard level;
  torch::jit::Stack stack;
  PushOperands(node, tensors_, stack);
  CallOperator(node.op, stack);
  std::vector<Arg> results;
  for (const c10::IValue& value : stack) {
    std::vector<at::Tensor> made;
    if (value.isTensorList()) {
      made = value.toTensorVector();
      node.list_lengths.push_back(static_cast<int32_t>(made.size()));
    } else {
      made = {value.toTensor()};
    }
    for (const at::Tensor& tensor : made) {
      node.outputs.push_back(Add(tensor));
      results.push_back(Arg::Value(node.outputs.back()));
    }
  }
  graph.nodes.push_back(std::move(node));
  return results;
}

Outcome RunOn(Backend& backend, const GraphRecorder& recorder, uint64_t seed) {
  Outcome outcome;
  for (const at::Tensor& input : recorder.inputs) outcome.inputs.push_back(CopyExactly(input));
  CompileRequest request;
  request.graph = &recorder.graph;
  request.example_inputs = outcome.inputs;
  auto compiled = backend.Compile(request);
  EXPECT_TRUE(compiled.ok()) << compiled.status().ToString();
  if (!compiled.ok()) return outcome;
  at::manual_seed(seed);
  (*compiled)->Run(outcome.inputs, outcome.outputs);
  outcome.description = (*compiled)->Describe();
  return outcome;
}

Outcome ExpectCpuEqualsInterp(const GraphRecorder& recorder) {
  Outcome expected = RunOn(*MakeInterpBackend(), recorder);
  Outcome actual = RunOn(*MakeCpuBackend(), recorder);
  EXPECT_EQ(actual.outputs.size(), expected.outputs.size());
  for (size_t i = 0; i < std::min(actual.outputs.size(), expected.outputs.size()); ++i) {
    ExpectSameTensor(actual.outputs[i], expected.outputs[i], "output " + std::to_string(i) + "\n" + actual.description);
  }
  for (size_t i = 0; i < expected.inputs.size(); ++i) {
    ExpectSameTensor(actual.inputs[i], expected.inputs[i], "input " + std::to_string(i) + "\n" + actual.description);
  }
  return actual;
}

int CountKernels(const Outcome& outcome) { return CountLines(outcome.description, "kernel "); }
int CountCalls(const Outcome& outcome) { return CountLines(outcome.description, "call "); }

}  // namespace framejit
