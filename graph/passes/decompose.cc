// Decomposition: composite pointwise operators, and batch norm with running statistics, in terms of the pointwise
// operators that backends fuse. The formulas are those of eager mode's CPU kernels (aten/src/ATen/native/cpu), in their
// order of operations. On float16 and bfloat16 those kernels compute in float32 and round once; so do the
// decompositions, through explicit casts. A decomposition whose result would not have the recorded metadata is not
// made.
//
// Kept whole, since backends have a kernel for them: gelu, softmax, layer norm, mean, var, convolution, attention.
#include "graph/constant.h"
#include "graph/number_operand.h"
#include "graph/operator_table.h"
#include "graph/passes/analysis.h"
#include "graph/passes/pipeline.h"
#include "graph/passes/pointwise_meta.h"

namespace framejit {
namespace {

bool IsReduced(at::ScalarType dtype) { return dtype == at::kHalf || dtype == at::kBFloat16; }

// Appends nodes that stand for one node of the graph. After any failure what it made is useless (see failed()).
class Emitter {
 public:
  Emitter(Graph& graph, std::vector<Node>& nodes, const Node& origin, int32_t& next_storage)
      : graph_(graph),
        nodes_(nodes),
        origin_(origin),
        next_storage_(next_storage),
        result_dtype_(graph.meta(origin.outputs[0]).dtype),
        dtype_(IsReduced(result_dtype_) ? at::kFloat : result_dtype_),
        first_node_(nodes.size()),
        first_value_(graph.values.size()) {}

  // An operand of the original node in the dtype of computation; kNoValue stays absent.
  ValueId Tensor(size_t operand) {
    ValueId id = origin_.operands[operand].value;
    if (id == kNoValue || graph_.meta(id).dtype == dtype_) return id;
    // Type promotion among different dtypes is the original operator's affair; only the widening of its own is ours.
    bool widening = dtype_ == at::kFloat && IsReduced(graph_.meta(id).dtype);
    if (!widening) {
      failed_ = true;
      return id;
    }
    return Cast(id, dtype_);
  }
  const c10::IValue& Constant(size_t operand) const { return origin_.operands[operand].constant; }

  ValueId Unary(const char* op, ValueId a) { return Emit(op, {Operand::Value(a)}, Pointwise({a}, dtype_)); }
  ValueId Binary(const char* op, ValueId a, ValueId b) {
    absl::InlinedVector<Operand, 4> operands = {Operand::Value(a), Operand::Value(b)};
    return Emit(op, std::move(operands), Pointwise({a, b}, dtype_));
  }
  ValueId WithScalar(const char* op, ValueId a, c10::IValue scalar) {
    return Emit(op, {Operand::Value(a), Operand::Constant(std::move(scalar))}, Pointwise({a}, dtype_));
  }
  ValueId Compare(const char* op, ValueId a, c10::IValue scalar) {
    return Emit(op, {Operand::Value(a), Operand::Constant(std::move(scalar))}, Pointwise({a}, at::kBool));
  }
  ValueId Clamp(ValueId a, c10::IValue low, c10::IValue high) {
    return Emit("aten::clamp",
                {Operand::Value(a), Operand::Constant(std::move(low)), Operand::Constant(std::move(high))},
                Pointwise({a}, dtype_));
  }
  ValueId Where(ValueId condition, ValueId a, ValueId b) {
    return Emit("aten::where.self", {Operand::Value(condition), Operand::Value(a), Operand::Value(b)},
                Pointwise({condition, a, b}, dtype_));
  }
  ValueId Cast(ValueId a, at::ScalarType dtype) {
    return Emit("aten::_to_copy", {Operand::Value(a), Operand::Constant(static_cast<int64_t>(dtype))},
                Pointwise({a}, dtype));
  }
  // A vector of channels as [1, C, 1, ...], to broadcast over dimension 1 of `rank` dimensions.
  ValueId PerChannel(ValueId a, size_t rank) {
    TensorMeta meta = graph_.meta(a);
    int64_t channels = meta.numel();
    int64_t stride = meta.strides[0];
    meta.sizes.assign(rank, 1);
    meta.sizes[1] = channels;
    meta.strides.assign(rank, stride);  // as at::detail::computeStride gives them: one block, then ones
    meta.strides[0] = channels * stride;
    return Emit("aten::view", {Operand::Value(a), Operand::Constant(c10::List<int64_t>(c10::IntArrayRef(meta.sizes)))},
                meta);
  }

  // Makes `value` the original node's first result; false where it is not what was recorded, and nothing is left then.
  bool Finish(ValueId value) {
    if (!failed_ && result_dtype_ != dtype_) value = Cast(value, result_dtype_);
    ValueId result = origin_.outputs[0];
    bool good = !failed_ && nodes_.size() > first_node_ && nodes_.back().outputs[0] == value &&
                SameMeta(graph_.meta(value), graph_.meta(result));
    if (!good) {
      nodes_.resize(first_node_, origin_);
      graph_.values.resize(first_value_);
      return false;
    }
    nodes_.back().outputs[0] = result;
    graph_.values.pop_back();  // `value` was the last one made
    return true;
  }

 private:
  std::optional<TensorMeta> Pointwise(std::initializer_list<ValueId> ids, at::ScalarType dtype) {
    absl::InlinedVector<const TensorMeta*, 3> metas;
    for (ValueId id : ids) {
      if (id == kNoValue) return std::nullopt;
      metas.push_back(&graph_.meta(id));
    }
    std::optional<TensorMeta> meta = PointwiseMeta(metas, dtype);
    if (meta) meta->storage = next_storage_++;
    return meta;
  }

  // The operands given come first; the schema's defaults follow.
  ValueId Emit(const char* name, absl::InlinedVector<Operand, 4> operands, std::optional<TensorMeta> meta) {
    auto op = FindOperator(name);
    failed_ |= !op || !meta;
    if (failed_) return kNoValue;
    Node node{*op};
    node.operands = std::move(operands);
    const auto& arguments = op->schema().arguments();
    for (size_t i = node.operands.size(); i < arguments.size(); ++i) {
      bool tensor = TypeOf(arguments[i]).kind == ArgumentKind::kTensor;
      node.operands.push_back(tensor ? Operand::Value(kNoValue) : Operand::Constant(*arguments[i].default_value()));
    }
    node.location = origin_.location;
    node.torch_call = origin_.torch_call;
    ValueId id = graph_.AddValue(std::move(*meta));
    node.outputs.push_back(id);
    nodes_.push_back(std::move(node));
    return id;
  }

  Graph& graph_;
  std::vector<Node>& nodes_;
  const Node& origin_;
  int32_t& next_storage_;
  at::ScalarType result_dtype_;
  at::ScalarType dtype_;
  size_t first_node_;
  size_t first_value_;
  bool failed_ = false;
};

// Turn this: silu(x) / Into this: x / (exp(-x) + 1)
ValueId Silu(Emitter& e) {
  ValueId x = e.Tensor(0);
  ValueId denominator = e.WithScalar("aten::add.Scalar", e.Unary("aten::exp", e.Unary("aten::neg", x)), int64_t{1});
  return e.Binary("aten::div.Tensor", x, denominator);
}

// Turn this: addcmul(x, a, b, value) / Into this: x + value * a * b
ValueId Addcmul(Emitter& e) {
  ValueId x = e.Tensor(0);
  ValueId a = e.Tensor(1);
  ValueId b = e.Tensor(2);
  if (!SameConstant(e.Constant(3), int64_t{1})) a = e.WithScalar("aten::mul.Scalar", a, e.Constant(3));
  return e.Binary("aten::add.Tensor", x, e.Binary("aten::mul.Tensor", a, b));
}

// Turn this: addcdiv(x, a, b, value) / Into this: x + value * a / b
ValueId Addcdiv(Emitter& e) {
  ValueId x = e.Tensor(0);
  ValueId a = e.Tensor(1);
  ValueId b = e.Tensor(2);
  if (!SameConstant(e.Constant(3), int64_t{1})) a = e.WithScalar("aten::mul.Scalar", a, e.Constant(3));
  return e.Binary("aten::add.Tensor", x, e.Binary("aten::div.Tensor", a, b));
}

// Turn this: hardtanh(x, low, high) / Into this: clamp(x, low, high)
ValueId Hardtanh(Emitter& e) { return e.Clamp(e.Tensor(0), e.Constant(1), e.Constant(2)); }

// Turn this: hardsigmoid(x) / Into this: clamp(x + 3, 0, 6) / 6
ValueId Hardsigmoid(Emitter& e) {
  ValueId shifted = e.WithScalar("aten::add.Scalar", e.Tensor(0), int64_t{3});
  return e.WithScalar("aten::div.Scalar", e.Clamp(shifted, int64_t{0}, int64_t{6}), int64_t{6});
}

// Turn this: hardswish(x) / Into this: x * clamp(x + 3, 0, 6) / 6
ValueId Hardswish(Emitter& e) {
  ValueId x = e.Tensor(0);
  ValueId shifted = e.WithScalar("aten::add.Scalar", x, int64_t{3});
  ValueId product = e.Binary("aten::mul.Tensor", x, e.Clamp(shifted, int64_t{0}, int64_t{6}));
  return e.WithScalar("aten::div.Scalar", product, int64_t{6});
}

// Turn this: leaky_relu(x, slope) / Into this: where(x > 0, x, x * slope)
ValueId LeakyRelu(Emitter& e) {
  ValueId x = e.Tensor(0);
  ValueId scaled = e.WithScalar("aten::mul.Scalar", x, e.Constant(1));
  return e.Where(e.Compare("aten::gt.Scalar", x, int64_t{0}), x, scaled);
}

// Turn this: pow(x, 2), pow(x, 0.5) and so on / Into this: x * x, sqrt(x) and so on, as eager's kernel computes them.
// Integers only square: their other powers raise or wrap.
ValueId Power(Emitter& e, const Node& node, const TensorMeta& result) {
  const c10::IValue& exponent = node.operands[1].constant;
  if (!exponent.isDouble() && !exponent.isInt()) return kNoValue;
  double power = exponent.isInt() ? static_cast<double>(exponent.toInt()) : exponent.toDouble();
  bool floating = at::isFloatingType(result.dtype);
  if (power != 2 && !floating) return kNoValue;
  ValueId x = e.Tensor(0);
  if (power == 2) return e.Binary("aten::mul.Tensor", x, x);
  // On float16 eager's kernel is std::pow, which is no square root of -0.0 and -infinity.
  if (power == 0.5) return result.dtype == at::kHalf ? kNoValue : e.Unary("aten::sqrt", x);
  if (power == -1) return e.Unary("aten::reciprocal", x);
  if (IsReduced(result.dtype)) return kNoValue;  // eager's kernels round sqrt(x) or x * x to the dtype in between
  if (power == -0.5) return e.Unary("aten::rsqrt", x);
  if (power == 3) return e.Binary("aten::mul.Tensor", e.Binary("aten::mul.Tensor", x, x), x);
  return kNoValue;
}

// Turn this: batch_norm(x, weight, bias, mean, var, eps) in inference
// Into this: x * scale + shift, with scale = weight * rsqrt(var + eps) and shift = bias - mean * scale, a channel each
ValueId BatchNorm(Emitter& e, const Node& node, const TensorMeta& input, size_t epsilon) {
  ValueId x = e.Tensor(0);
  ValueId weight = e.Tensor(1);
  ValueId bias = e.Tensor(2);
  ValueId mean = e.Tensor(3);
  ValueId scale = e.Unary("aten::rsqrt", e.WithScalar("aten::add.Scalar", e.Tensor(4), e.Constant(epsilon)));
  if (weight != kNoValue) scale = e.Binary("aten::mul.Tensor", scale, weight);
  ValueId shift = e.Binary("aten::mul.Tensor", mean, scale);
  shift = bias == kNoValue ? e.Unary("aten::neg", shift) : e.Binary("aten::sub.Tensor", bias, shift);
  if (scale == kNoValue || shift == kNoValue) return kNoValue;
  ValueId scaled = e.Binary("aten::mul.Tensor", x, e.PerChannel(scale, input.sizes.size()));
  return e.Binary("aten::add.Tensor", scaled, e.PerChannel(shift, input.sizes.size()));
}

enum class Kind { kSilu, kAddcmul, kAddcdiv, kHardtanh, kHardsigmoid, kHardswish, kLeakyRelu, kPower, kBatchNorm };

struct Decomposition {
  Kind kind;
  bool exact = false;  // gives the bits of eager's kernel, which neither contracts nor approximates
  int training = -1;   // batch norm: the operand that must be False, where there is one
  size_t epsilon = 0;
};

const OperatorTable<Decomposition>& Decompositions() {
  static const auto* table = new OperatorTable<Decomposition>{
      {"aten::silu", {Kind::kSilu}},
      {"aten::addcmul", {Kind::kAddcmul}},
      {"aten::addcdiv", {Kind::kAddcdiv}},
      {"aten::hardtanh", {Kind::kHardtanh, /*exact=*/true}},
      {"aten::hardsigmoid", {Kind::kHardsigmoid, /*exact=*/true}},
      {"aten::hardswish", {Kind::kHardswish, /*exact=*/true}},
      {"aten::leaky_relu", {Kind::kLeakyRelu, /*exact=*/true}},
      {"aten::pow.Tensor_Scalar", {Kind::kPower}},
      {"aten::_native_batch_norm_legit_no_training", {Kind::kBatchNorm, false, -1, 6}},
      {"aten::native_batch_norm", {Kind::kBatchNorm, false, 5, 7}},
      {"aten::cudnn_batch_norm", {Kind::kBatchNorm, false, 5, 7}},
      {"aten::miopen_batch_norm", {Kind::kBatchNorm, false, 5, 7}},
  };
  return *table;
}

class Decomposer {
 public:
  explicit Decomposer(Graph& graph) : graph_(graph), facts_(graph), used_(graph.values.size(), false) {
    for (const Node& node : graph.nodes) ForEachOperandValue(node, [this](const ValueId& id) { used_[id] = true; });
    for (ValueId id : graph.outputs) used_[id] = true;
    for (const InputMutation& mutation : graph.mutations) used_[mutation.value] = true;
    for (const TensorMeta& meta : graph.values) next_storage_ = std::max(next_storage_, meta.storage + 1);
  }

  int Run() {
    std::vector<Node> old = std::move(graph_.nodes);
    graph_.nodes.clear();
    graph_.nodes.reserve(old.size() + old.size() / 2);
    int rewrites = 0;
    for (Node& node : old) {
      const Decomposition* row = Decompositions().Find(node.op);
      if (row != nullptr && Applies(node, *row) && Replace(node, *row)) {
        ++rewrites;
      } else {
        graph_.nodes.push_back(std::move(node));
      }
    }
    return rewrites;
  }

 private:
  bool Applies(const Node& node, const Decomposition& row) const {
    if (graph_.modes.strict && !row.exact) return false;
    if (HasEffect(node) || facts_.TouchesWritten(node) || node.outputs[0] == kNoValue) return false;
    if (row.kind == Kind::kBatchNorm) return BatchNormApplies(node, row);
    for (size_t i = 0; i < node.operands.size(); ++i) {
      if (IsNumberOperand(node, i)) return false;
    }
    at::ScalarType dtype = graph_.meta(node.outputs[0]).dtype;
    return at::isFloatingType(dtype) || (row.kind == Kind::kPower && at::isIntegralType(dtype, false));
  }

  // Inference with running statistics, of the dtypes and sizes that the kernels take, and nobody asks for the (empty)
  // saved ones.
  bool BatchNormApplies(const Node& node, const Decomposition& row) const {
    if (row.training >= 0 && !SameConstant(node.operands[row.training].constant, false)) return false;
    for (size_t i = 1; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNoValue && used_[node.outputs[i]]) return false;
    }
    bool statistics = node.operands[3].value != kNoValue && node.operands[4].value != kNoValue;
    const TensorMeta& input = graph_.meta(node.operands[0].value);
    if (!statistics || input.sizes.size() < 2 || input.numel() == 0 || !at::isFloatingType(input.dtype)) return false;
    for (size_t i = 1; i <= 4; ++i) {
      if (node.operands[i].value == kNoValue) continue;
      const TensorMeta& meta = graph_.meta(node.operands[i].value);
      if (meta.sizes.size() != 1 || meta.sizes[0] != input.sizes[1] || !at::isFloatingType(meta.dtype)) return false;
    }
    return true;
  }

  bool Replace(const Node& node, const Decomposition& row) {
    TensorMeta result = graph_.meta(node.outputs[0]);
    TensorMeta input = graph_.meta(node.operands[0].value);
    Emitter emitter(graph_, graph_.nodes, node, next_storage_);
    switch (row.kind) {
      case Kind::kSilu:
        return emitter.Finish(Silu(emitter));
      case Kind::kAddcmul:
        return emitter.Finish(Addcmul(emitter));
      case Kind::kAddcdiv:
        return emitter.Finish(Addcdiv(emitter));
      case Kind::kHardtanh:
        return emitter.Finish(Hardtanh(emitter));
      case Kind::kHardsigmoid:
        return emitter.Finish(Hardsigmoid(emitter));
      case Kind::kHardswish:
        return emitter.Finish(Hardswish(emitter));
      case Kind::kLeakyRelu:
        return emitter.Finish(LeakyRelu(emitter));
      case Kind::kPower:
        return emitter.Finish(Power(emitter, node, result));
      case Kind::kBatchNorm:
        return emitter.Finish(BatchNorm(emitter, node, input, row.epsilon));
    }
    return false;
  }

  Graph& graph_;
  MemoryFacts facts_;
  std::vector<bool> used_;
  int32_t next_storage_ = 0;
};

}  // namespace

int Decompose(Graph& graph) {
  const bool any = std::any_of(graph.nodes.begin(), graph.nodes.end(),
                               [](const Node& node) { return Decompositions().Find(node.op) != nullptr; });
  return any ? Decomposer(graph).Run() : 0;
}

}  // namespace framejit
