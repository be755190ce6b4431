#include "graph/verify.h"

#include "absl/strings/str_cat.h"
#include "graph/constant.h"
#include "graph/print.h"

namespace framejit {
namespace {

bool IsConstantOfKind(const c10::IValue& value, ArgumentKind kind) {
  switch (kind) {
    case ArgumentKind::kTensor:
    case ArgumentKind::kTensorList:
    case ArgumentKind::kList:
      return false;
    case ArgumentKind::kInt:
    case ArgumentKind::kScalarType:
    case ArgumentKind::kLayout:
    case ArgumentKind::kMemoryFormat:
      return value.isInt();
    case ArgumentKind::kFloat:
      return value.isDouble();
    case ArgumentKind::kBool:
      return value.isBool();
    case ArgumentKind::kComplex:
      return value.isComplexDouble();
    case ArgumentKind::kScalar:
      return value.isInt() || value.isDouble() || value.isBool() || value.isComplexDouble();
    case ArgumentKind::kString:
      return value.isString();
    case ArgumentKind::kDevice:
      return value.isDevice();
    case ArgumentKind::kGenerator:
      return value.isGenerator();
    case ArgumentKind::kOther:
      return true;
  }
  return false;
}

bool HoldsTensor(const c10::IValue& value) {
  if (value.isTensor()) return true;
  if (!value.isList()) return false;
  for (const c10::IValue& item : value.toListRef()) {
    if (HoldsTensor(item)) return true;
  }
  return false;
}

bool ConstantMatches(const c10::IValue& value, const ArgumentType& type) {
  if (HoldsTensor(value)) return false;
  if (value.isNone()) return type.optional || type.kind == ArgumentKind::kOther;
  if (type.kind != ArgumentKind::kList) return IsConstantOfKind(value, type.kind);
  if (!value.isList()) return false;
  for (const c10::IValue& item : value.toListRef()) {
    if (!item.isNone() && !IsConstantOfKind(item, type.element)) return false;
  }
  return true;
}

bool IsNumber(const Graph& graph, ValueId id) {
  return id >= 0 && static_cast<size_t>(id) < graph.values.size() && graph.meta(id).is_number;
}

bool OperandMatches(const Graph& graph, const Operand& operand, const ArgumentType& type) {
  switch (operand.kind) {
    case Operand::Kind::kValue:
      if (type.kind == ArgumentKind::kScalar) return IsNumber(graph, operand.value);
      return type.kind == ArgumentKind::kTensor;  // undefined tensors pass as Tensor too
    case Operand::Kind::kValueList:
      return type.kind == ArgumentKind::kTensorList;
    case Operand::Kind::kConstant:
      return ConstantMatches(operand.constant, type);
  }
  return false;
}

class Verifier {
 public:
  explicit Verifier(const Graph& graph) : graph_(graph), defined_(graph.values.size(), false) {}

  std::vector<GraphError> Run() {
    for (ValueId id : graph_.inputs) Define(id, "input");
    is_constant_.assign(graph_.values.size(), false);
    for (const GraphConstant& constant : graph_.constants) CheckConstant(constant);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      node_ = static_cast<int>(i);
      CheckNode(graph_.nodes[i]);
    }
    node_ = -1;
    for (const InputMutation& mutation : graph_.mutations) CheckMutation(mutation);
    for (ValueId id : graph_.outputs) CheckOutput(id);
    return std::move(errors_);
  }

 private:
  template <typename... Parts>
  void Error(const Parts&... parts) {
    errors_.push_back({node_, absl::StrCat(parts...)});
  }

  bool InRange(ValueId id) { return id >= 0 && static_cast<size_t>(id) < graph_.values.size(); }

  void Define(ValueId id, const char* what) {
    if (!InRange(id)) return Error(what, " %", id, " is not a value of the graph");
    if (defined_[id]) Error("%", id, " is defined twice");
    defined_[id] = true;
    const TensorMeta& meta = graph_.meta(id);
    if (meta.sizes.size() != meta.strides.size()) {
      Error("%", id, " has ", meta.sizes.size(), " sizes and ", meta.strides.size(), " strides");
    }
    for (int64_t size : meta.sizes) {
      if (size < 0) Error("%", id, " has the negative size ", size);
    }
    if (meta.storage_offset < 0) Error("%", id, " has the negative offset ", meta.storage_offset);
  }

  bool Use(ValueId id, const char* what) {
    if (InRange(id) && defined_[id]) return true;
    Error(what, " %", id, " is not defined here");
    return false;
  }

  void CheckConstant(const GraphConstant& constant) {
    Define(constant.id, "constant");
    if (!InRange(constant.id)) return;
    is_constant_[constant.id] = true;
    if (!constant.tensor.defined()) return Error("constant %", constant.id, " has no tensor");
    const TensorMeta& meta = graph_.meta(constant.id);
    const at::Tensor& tensor = constant.tensor;
    // What a library packed (weights that are frozen) has no strides.
    bool same = tensor.scalar_type() == meta.dtype && tensor.device() == meta.device &&
                tensor.sizes() == c10::IntArrayRef(meta.sizes) &&
                (tensor.is_mkldnn() || tensor.strides() == c10::IntArrayRef(meta.strides));
    if (!same) Error("constant %", constant.id, " is not the tensor that its type says");
  }

  void CheckOperand(const Operand& operand, const c10::Argument& argument) {
    ArgumentType type = TypeOf(argument);
    if (!OperandMatches(graph_, operand, type)) {
      Error("operand '", argument.name(), "' is not of type ", ArgumentTypeName(type));
    }
  }

  void CheckNode(const Node& node) {
    const auto& arguments = node.op.schema().arguments();
    if (node.operands.size() != arguments.size()) {
      Error("has ", node.operands.size(), " operands, the schema has ", arguments.size());
    } else {
      for (size_t i = 0; i < arguments.size(); ++i) CheckOperand(node.operands[i], arguments[i]);
    }
    ForEachOperandValue(node, [this](const ValueId& id) { Use(id, "operand"); });
    CheckOutputs(node);
    if (node.location >= static_cast<int32_t>(graph_.locations.size())) Error("has no such location: ", node.location);
  }

  void CheckOutputs(const Node& node) {
    size_t tensors = 0;
    size_t lists = 0;
    for (const c10::Argument& result : node.op.schema().returns()) {
      ArgumentKind kind = TypeOf(result).kind;
      if (kind == ArgumentKind::kTensor) ++tensors;
      if (kind == ArgumentKind::kTensorList) ++lists;
    }
    if (lists != node.list_lengths.size()) {
      Error("has ", node.list_lengths.size(), " list lengths, the schema returns ", lists, " lists");
    }
    for (int32_t length : node.list_lengths) {
      if (length < 0) Error("has the negative list length ", length);
      tensors += static_cast<size_t>(std::max(length, 0));
    }
    if (tensors != node.outputs.size()) Error("has ", node.outputs.size(), " outputs, the schema returns ", tensors);
    for (ValueId id : node.outputs) {
      if (id != kNoValue) Define(id, "output");
    }
  }

  void CheckMutation(const InputMutation& mutation) {
    bool is_input = std::find(graph_.inputs.begin(), graph_.inputs.end(), mutation.input) != graph_.inputs.end();
    if (!is_input) return Error("mutate: %", mutation.input, " is not an input");
    if (!InRange(mutation.input) || !Use(mutation.value, "mutate:")) return;
    const TensorMeta& target = graph_.meta(mutation.input);
    const TensorMeta& value = graph_.meta(mutation.value);
    if (target.sizes != value.sizes || target.dtype != value.dtype || target.device != value.device) {
      Error("mutate: %", mutation.input, " and %", mutation.value, " differ in sizes, dtype or device");
    }
  }

  void CheckOutput(ValueId id) {
    if (Use(id, "return:") && is_constant_[id]) Error("return: the constant %", id, " would be handed out");
  }

  const Graph& graph_;
  std::vector<bool> defined_;
  std::vector<bool> is_constant_;
  std::vector<GraphError> errors_;
  int node_ = -1;
};

}  // namespace

std::vector<GraphError> FindErrors(const Graph& graph) { return Verifier(graph).Run(); }

absl::Status Verify(const Graph& graph) {
  std::vector<GraphError> errors = FindErrors(graph);
  if (errors.empty()) return absl::OkStatus();
  PrintOptions options;
  options.max_constant_elements = 16;
  std::string text = "invalid graph:";
  for (const GraphError& error : errors) {
    if (error.node >= 0) absl::StrAppend(&text, "\n", PrintNode(graph, graph.nodes[error.node], options));
    absl::StrAppend(&text, "\n", error.node >= 0 ? "  ^ " : "", error.message);
  }
  return absl::InternalError(text);
}

}  // namespace framejit
