#include "backends/native/emitter.h"

#include <algorithm>
#include <cmath>

#include "backends/alias.h"
#include "backends/native/alike.h"
#include "backends/native/emitter_rules.h"
#include "graph/number_operand.h"

namespace framejit::native {
namespace {

bool FitsInteger(int64_t value, at::ScalarType type) {
  switch (type) {
    case at::ScalarType::Bool:
      return value == 0 || value == 1;
    case at::ScalarType::Byte:
      return value >= 0 && value <= 255;
    case at::ScalarType::Char:
      return value >= -128 && value <= 127;
    case at::ScalarType::Short:
      return value >= -32768 && value <= 32767;
    case at::ScalarType::Int:
      return value >= INT32_MIN && value <= INT32_MAX;
    default:
      return true;  // torch's enumeration; the callers pass integer types of the IR
  }
}

at::ScalarType NumberType(const c10::IValue& number) {
  if (number.isBool()) return at::ScalarType::Bool;
  if (number.isInt()) return at::ScalarType::Long;
  if (number.isDouble()) return at::ScalarType::Double;
  return at::ScalarType::ComplexDouble;  // not a type of the IR: whoever asks gives up
}

// Every dimension has another stride and none is zero: a kernel may write this layout.
bool IsDense(const TensorMeta& meta) {
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (size_t i = 0; i < meta.sizes.size(); ++i) {
    if (meta.sizes[i] != 1) dims.emplace_back(meta.strides[i], meta.sizes[i]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (auto [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

bool HasKernelLayout(const GraphFacts& facts, const Node& node) {
  for (ValueId id : node.outputs) {
    if (id == kNoValue) continue;
    const TensorMeta& meta = facts.graph.meta(id);
    bool unused = facts.users[static_cast<size_t>(id)].empty() && !facts.escapes[static_cast<size_t>(id)];
    if (unused) continue;
    if (!facts.IsLoopValue(id) || meta.numel() == 0 || meta.storage_offset != 0 || !IsDense(meta)) return false;
  }
  bool readable = true;
  ForEachOperandValue(
      node, [&](ValueId id) { readable = readable && facts.IsLoopOperand(id) && facts.graph.meta(id).numel() > 0; });
  return readable && node.list_lengths.empty();
}

// On a GPU compilers may approximate what is exact here.
bool IsExact(const GraphFacts& facts, const Node& node, const EmitRule& rule) {
  switch (rule.exact) {
    case Exact::kNever:
      return false;
    case Exact::kIntegers:
      return c10::isIntegralType(facts.graph.meta(node.outputs[0]).dtype, /*includeBool=*/true);
    case Exact::kAlways:
      return facts.graph.meta(node.outputs[0]).device.is_cpu();
  }
  return false;
}

bool EmitsInTrial(const GraphFacts& facts, const Node& node) {
  loop::KernelBuilder builder({2});
  Emitter::Callbacks callbacks;
  callbacks.load = [&](ValueId id, int) {
    int32_t buffer = builder.AddInput(*LoopDType(facts.graph.meta(id).dtype));
    return builder.Load(buffer, {1});
  };
  callbacks.index = [&](int64_t) { return builder.Index(0); };
  Emitter emitter(facts, builder, std::move(callbacks));
  return emitter.Emit(node).has_value();
}

}  // namespace

bool Emitter::IsNone(size_t operand) const {
  const Operand& o = node_->operands[operand];
  if (o.kind == Operand::Kind::kConstant) return o.constant.isNone();
  return o.kind == Operand::Kind::kValue && o.value == kNoValue;
}

loop::ValueId Emitter::Fail() {
  failed_ = true;
  return builder_.ConstInt(loop::DType::kInt32, 0);
}

Emitter::Arg Emitter::Get(size_t operand, int align) {
  Arg arg;
  const Operand& o = node_->operands[operand];
  if (o.kind == Operand::Kind::kConstant) {
    arg.is_number = true;
    arg.dtype = NumberType(o.constant);
    if (!LoopDType(arg.dtype)) {
      Fail();
      return arg;
    }
    arg.number = o.constant.toScalar();
    return arg;
  }
  if (o.kind != Operand::Kind::kValue || o.value == kNoValue) {
    arg.value = Fail();
    return arg;
  }
  const TensorMeta& meta = facts_.graph.meta(o.value);
  arg.dtype = meta.dtype;
  arg.numel = meta.numel();
  if (auto number = facts_.ScalarConstant(o.value)) {
    arg.is_number = true;
    arg.number = *number;
  } else {
    arg.value = callbacks_.load(o.value, align);
  }
  return arg;
}

void Emitter::AddTo(Promotion& promotion, size_t operand) const {
  const Operand& o = node_->operands[operand];
  if (o.kind == Operand::Kind::kConstant) return promotion.AddWrappedNumber(NumberType(o.constant));
  auto constant = facts_.constants.find(o.value);
  if (constant != facts_.constants.end() && constant->second->unsafeGetTensorImpl()->is_wrapped_number()) {
    return promotion.AddWrappedNumber(constant->second->scalar_type());
  }
  const TensorMeta& meta = facts_.graph.meta(o.value);
  if (meta.is_number) return promotion.AddWrappedNumber(meta.dtype);
  promotion.AddTensor(meta.dtype, static_cast<int64_t>(meta.sizes.size()));
}

at::ScalarType Emitter::Common(std::initializer_list<size_t> operands) const {
  Promotion promotion;
  for (size_t operand : operands) {
    if (!IsNone(operand)) AddTo(promotion, operand);
  }
  return promotion.Result();
}

loop::ValueId Emitter::NumberAs(const c10::Scalar& number, at::ScalarType common, bool exact_number) {
  loop::DType storage = *LoopDType(common);
  loop::DType compute = ComputeDType(storage);
  if (c10::isFloatingType(common)) {
    double value = number.toDouble();
    if (!exact_number && common == at::ScalarType::Half)
      value = static_cast<float>(c10::Half(static_cast<float>(value)));
    if (!exact_number && common == at::ScalarType::BFloat16) {
      value = static_cast<float>(c10::BFloat16(static_cast<float>(value)));
    }
    return builder_.Const(compute, value);
  }
  if (number.isFloatingPoint()) {
    if (common == at::ScalarType::Bool) return builder_.ConstInt(compute, number.toDouble() != 0);
    return Fail();  // ATen decides how it converts, or raises
  }
  int64_t value = number.isBoolean() ? static_cast<int64_t>(number.toBool()) : number.toLong();
  if (common == at::ScalarType::Bool) return builder_.ConstInt(compute, value != 0);
  if (!FitsInteger(value, common)) return Fail();
  return builder_.ConstInt(compute, value);
}

loop::ValueId Emitter::As(const Arg& arg, at::ScalarType common, bool exact_number) {
  auto storage = LoopDType(common);
  if (failed_ || !storage) return Fail();
  if (arg.is_number) return NumberAs(arg.number, common, exact_number);
  if (exact_number && arg.numel == 1) return builder_.Cast(ComputeDType(*storage), arg.value);
  return builder_.Cast(ComputeDType(*storage), builder_.Cast(*storage, arg.value));
}

loop::ValueId Emitter::Number(double value, at::ScalarType common) {
  return builder_.Const(ComputeDType(*LoopDType(common)), value);
}

loop::ValueId Emitter::NumberOperand(size_t operand, at::ScalarType common) {
  if (IsNumberOperand(*node_, operand)) {
    const Arg arg = Get(operand);
    // ATen decides how it converts, or raises.
    if (c10::isFloatingType(arg.dtype) && !c10::isFloatingType(common)) return Fail();
    return As(arg, common, /*exact_number=*/true);
  }
  const c10::IValue& value = constant(operand);
  if (!LoopDType(NumberType(value))) return Fail();
  return NumberAs(value.toScalar(), common, /*exact_number=*/true);
}

std::optional<absl::InlinedVector<loop::ValueId, 3>> Emitter::Emit(const Node& node) {
  const EmitRule* rule = FindEmitRule(node.op);
  if (rule == nullptr) return std::nullopt;
  node_ = &node;
  failed_ = false;
  absl::InlinedVector<loop::ValueId, 3> results = rule->emit(*this);
  if (failed_ || results.size() != node.outputs.size()) return std::nullopt;
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i] == loop::kNoValue || node.outputs[i] == kNoValue) continue;
    auto storage = LoopDType(facts_.graph.meta(node.outputs[i]).dtype);
    if (!storage) return std::nullopt;
    results[i] = builder_.Cast(*storage, results[i]);
  }
  return results;
}

NodeKind Classify(const GraphFacts& facts, const Node& node, Trials& trials) {
  if (IsMetadataView(facts.graph, node)) return NodeKind::kView;
  const EmitRule* rule = FindEmitRule(node.op);
  if (rule == nullptr || !HasKernelLayout(facts, node)) return NodeKind::kLibrary;
  if (facts.graph.modes.strict && !IsExact(facts, node, *rule)) return NodeKind::kLibrary;
  if (rule->kind == NodeKind::kRow && RowShapeOf(facts, node).dims.empty()) return NodeKind::kLibrary;
  const auto emits = [&](const Node& tried) { return EmitsInTrial(facts, tried); };
  // Row operators look at what uses their results, too.
  const bool has_form = rule->kind == NodeKind::kPointwise ? trials.Find(node, emits) : emits(node);
  return has_form ? rule->kind : NodeKind::kLibrary;
}

RowShape RowShapeOf(const GraphFacts& facts, const Node& node) {
  RowShape shape;
  const EmitRule* rule = FindEmitRule(node.op);
  if (rule == nullptr || rule->kind != NodeKind::kRow || node.operands[0].kind != Operand::Kind::kValue) return shape;
  int64_t rank = static_cast<int64_t>(facts.graph.meta(node.operands[0].value).sizes.size());
  if (rank == 0) return shape;  // a scalar has no dimension, though operators take 0 and -1 for one
  auto all = [&] {
    for (int64_t d = 0; d < rank; ++d) shape.dims.push_back(d);
  };
  if (rule->dims_operand < 0) {
    all();
    return shape;
  }
  const c10::IValue& dims = node.operands[static_cast<size_t>(rule->dims_operand)].constant;
  if (rule->trailing_dims) {
    for (int64_t d = rank - static_cast<int64_t>(dims.toIntVector().size()); d < rank; ++d) shape.dims.push_back(d);
  } else if (dims.isInt()) {
    shape.dims.push_back(dims.toInt());
  } else if (dims.isIntList() && !dims.toIntVector().empty()) {
    for (int64_t d : dims.toIntVector()) shape.dims.push_back(d);
  } else if (!dims.isIntList() || !rule->empty_means_none) {
    all();
  }
  for (int64_t& d : shape.dims) d = d < 0 ? d + rank : d;
  std::sort(shape.dims.begin(), shape.dims.end());
  return shape;
}

}  // namespace framejit::native
