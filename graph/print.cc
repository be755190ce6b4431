#include "graph/print.h"

#include <ATen/ops/view_as_real.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "graph/constant.h"

namespace framejit {
namespace {

std::string PrintInts(c10::ArrayRef<int64_t> ints) { return absl::StrCat("[", absl::StrJoin(ints, ", "), "]"); }

std::string PrintId(ValueId id) { return id == kNoValue ? "none" : absl::StrCat("%", id); }

std::string PrintResult(const Graph& graph, ValueId id) {
  if (id == kNoValue) return "none";
  if (id < 0 || static_cast<size_t>(id) >= graph.values.size()) return absl::StrCat("%", id, ": ?");  // malformed
  return absl::StrCat("%", id, ": ", PrintValueType(graph.meta(id)));
}

std::string PrintOperand(const Operand& operand, const ArgumentType& type) {
  switch (operand.kind) {
    case Operand::Kind::kConstant:
      return PrintConstant(operand.constant, type);
    case Operand::Kind::kValue:
      return PrintId(operand.value);
    case Operand::Kind::kValueList:
      return absl::StrCat(
          "[",
          absl::StrJoin(operand.values, ", ", [](std::string* out, ValueId id) { absl::StrAppend(out, PrintId(id)); }),
          "]");
  }
  return "";
}

std::string PrintOperands(const Node& node) {
  const auto& arguments = node.op.schema().arguments();
  std::string text;
  bool named = false;
  for (size_t i = 0; i < node.operands.size(); ++i) {
    if (i >= arguments.size()) {
      absl::StrAppend(&text, text.empty() ? "" : ", ", "<surplus>");
      continue;
    }
    const c10::Argument& argument = arguments[i];
    if (EqualsDefault(node.operands[i], argument)) {
      named = true;
      continue;
    }
    absl::StrAppend(&text, text.empty() ? "" : ", ",
                    named || argument.kwarg_only() ? absl::StrCat(argument.name(), "=") : "",
                    PrintOperand(node.operands[i], TypeOf(argument)));
  }
  return text;
}

// Values on the left of "=", Tensor[] returns in brackets.
std::string PrintResults(const Graph& graph, const Node& node) {
  std::vector<std::string> parts;
  size_t next = 0;
  size_t next_list = 0;
  for (const c10::Argument& result : node.op.schema().returns()) {
    ArgumentKind kind = TypeOf(result).kind;
    if (kind == ArgumentKind::kTensor && next < node.outputs.size()) {
      parts.push_back(PrintResult(graph, node.outputs[next++]));
    } else if (kind == ArgumentKind::kTensorList && next_list < node.list_lengths.size()) {
      std::vector<std::string> items;
      for (int32_t i = 0; i < node.list_lengths[next_list] && next < node.outputs.size(); ++i) {
        items.push_back(PrintResult(graph, node.outputs[next++]));
      }
      ++next_list;
      parts.push_back(absl::StrCat("[", absl::StrJoin(items, ", "), "]"));
    }
  }
  // A malformed node still shows everything it holds.
  while (next < node.outputs.size()) parts.push_back(PrintResult(graph, node.outputs[next++]));
  return absl::StrJoin(parts, ", ");
}

std::string PrintElements(const at::Tensor& tensor) {
  at::Tensor flat = tensor.detach().cpu().resolve_conj().resolve_neg().reshape({-1});
  std::string text = "[";
  auto append = [&text](const std::string& item) { absl::StrAppend(&text, text.size() > 1 ? ", " : "", item); };
  if (flat.is_complex()) {
    at::Tensor parts = at::view_as_real(flat.to(at::kComplexDouble)).contiguous();
    const double* data = parts.const_data_ptr<double>();
    for (int64_t i = 0; i < flat.numel(); ++i) {
      append(absl::StrCat("complex(", PrintDouble(data[2 * i]), ", ", PrintDouble(data[2 * i + 1]), ")"));
    }
  } else if (flat.is_floating_point()) {
    at::Tensor doubles = flat.to(at::kDouble);
    for (int64_t i = 0; i < flat.numel(); ++i) append(PrintDouble(doubles.const_data_ptr<double>()[i]));
  } else {
    at::Tensor ints = flat.to(at::kLong);
    for (int64_t i = 0; i < flat.numel(); ++i) append(absl::StrCat(ints.const_data_ptr<int64_t>()[i]));
  }
  return text + "]";
}

std::string PrintGraphConstant(const Graph& graph, const GraphConstant& constant, const PrintOptions& options) {
  std::string elements = "<undefined>";
  bool wrapped = false;
  if (constant.tensor.defined()) {
    wrapped = constant.tensor.unsafeGetTensorImpl()->is_wrapped_number();
    elements = constant.tensor.numel() > options.max_constant_elements ? "..." : PrintElements(constant.tensor);
  }
  return absl::StrCat("constant ", PrintResult(graph, constant.id), wrapped ? " wrapped" : "", " = ", elements, "\n");
}

}  // namespace

c10::DimVector ContiguousStrides(c10::ArrayRef<int64_t> sizes) {
  c10::DimVector strides(sizes.size());
  int64_t expected = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = expected;
    expected *= std::max<int64_t>(sizes[i], 1);
  }
  return strides;
}

std::string PrintValueType(const TensorMeta& meta) {
  std::string text = absl::StrCat(DtypeName(meta.dtype), PrintInts(meta.sizes));
  if (meta.strides != ContiguousStrides(meta.sizes)) absl::StrAppend(&text, " strides=", PrintInts(meta.strides));
  if (meta.storage_offset != 0) absl::StrAppend(&text, " offset=", meta.storage_offset);
  if (meta.device != c10::Device(c10::kCPU)) absl::StrAppend(&text, " device=", PrintString(meta.device.str()));
  if (meta.requires_grad) text += " requires_grad";
  if (meta.is_number) text += " number";
  if (meta.is_conj) text += " conj";
  if (meta.is_neg) text += " neg";
  if (meta.storage != -1) absl::StrAppend(&text, " @", meta.storage);
  return text;
}

std::string PrintLocation(const SourceLocation& location) {
  return absl::StrCat(location.file, ":", location.line, " in ", location.function);
}

std::string PrintNode(const Graph& graph, const Node& node, const PrintOptions& options) {
  std::string text;
  std::string results = PrintResults(graph, node);
  if (!results.empty()) absl::StrAppend(&text, results, " = ");
  absl::StrAppend(&text, OperatorName(node.op), "(", PrintOperands(node), ")");
  if (!options.locations) return text;
  bool has_location = node.location >= 0 && static_cast<size_t>(node.location) < graph.locations.size();
  if (has_location) absl::StrAppend(&text, "  # at ", PrintLocation(graph.locations[node.location]));
  if (node.torch_call >= 0) absl::StrAppend(&text, has_location ? " " : "  # at ", "(call ", node.torch_call, ")");
  return text;
}

std::string PrintGraph(const Graph& graph, const PrintOptions& options) {
  std::string text = graph.modes.strict ? "strict\n" : "";
  if (graph.modes.reduce_overhead) text += "reduce_overhead\n";
  if (graph.modes.autotune) text += "autotune\n";
  if (graph.modes.open_sizes) text += "open_sizes\n";
  for (ValueId id : graph.inputs) absl::StrAppend(&text, "input ", PrintResult(graph, id), "\n");
  for (const GraphConstant& constant : graph.constants) text += PrintGraphConstant(graph, constant, options);
  for (const Node& node : graph.nodes) absl::StrAppend(&text, PrintNode(graph, node, options), "\n");
  for (const InputMutation& mutation : graph.mutations) {
    absl::StrAppend(&text, "mutate ", PrintId(mutation.input), " <- ", PrintId(mutation.value), "\n");
  }
  std::vector<std::string> outputs;
  for (ValueId id : graph.outputs) outputs.push_back(PrintId(id));
  absl::StrAppend(&text, "return", outputs.empty() ? "" : " ", absl::StrJoin(outputs, ", "), "\n");
  return text;
}

}  // namespace framejit
