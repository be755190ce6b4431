// Operators over rows: reductions, softmax, layer norm. Operand 0 is an element value of the kernel; its reduced
// dimensions are the kernel's inner dimension.
#include <ATen/core/Reduction.h>
#include <c10/core/WrapDimMinimal.h>

#include <cmath>
#include <limits>

#include "backends/native/emitter_rules.h"
#include "backends/native/split_losses.h"

namespace framejit::native {
namespace {

using loop::Op;
using loop::ValueId;

EmitResults Failed(Emitter& e, size_t count) {
  EmitResults results;
  for (size_t i = 0; i < count; ++i) results.push_back(e.Fail());
  return results;
}

EmitResults Sum(Emitter& e) {
  if (e.out() == at::ScalarType::Bool) return {e.Fail()};
  return {e.b().Reduce(Op::kReduceSum, e.As(0, e.out()))};
}

EmitResults Mean(Emitter& e) {
  if (!c10::isFloatingType(e.out())) return {e.Fail()};
  return {e.b().Mean(e.As(0, e.out()))};
}

// Products of integers wrap, as eager's.
EmitResults Product(Emitter& e) {
  if (e.out() == at::ScalarType::Bool) return {e.Fail()};
  return {e.b().Reduce(Op::kReduceProd, e.As(0, e.out()))};
}

bool IsWide(at::ScalarType type) { return type == at::ScalarType::Float || type == at::ScalarType::Double; }

// Losses (x, y, ..., reduction) where they reduce; what is rounded in between stays with ATen.
bool ReducesWide(Emitter& e, size_t reduction) {
  return IsWide(e.out()) && e.constant(reduction).toInt() != at::Reduction::None &&
         e.operand_meta(0).sizes == e.operand_meta(1).sizes;
}

EmitResults ReduceLoss(Emitter& e, ValueId loss, size_t reduction) {
  const bool mean = e.constant(reduction).toInt() == at::Reduction::Mean;
  return {mean ? e.b().Mean(loss) : e.b().Reduce(Op::kReduceSum, loss)};
}

EmitResults MeanSquare(Emitter& e) {
  if (!ReducesWide(e, 2)) return {e.Fail()};
  const ValueId difference = e.b().Binary(Op::kSub, e.As(0, e.out()), e.As(1, e.out()));
  return ReduceLoss(e, e.b().Binary(Op::kMul, difference, difference), 2);
}

// binary_cross_entropy_with_logits(x, target, weight?, pos_weight?, reduction):
// (1 - target) x - log(sigmoid(x)), where log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|)).
EmitResults CrossEntropyOfLogits(Emitter& e) {
  if (!e.IsNone(2) || !e.IsNone(3) || !ReducesWide(e, 4)) return {e.Fail()};
  const ValueId x = e.As(0, e.out()), target = e.As(1, e.out());
  const ValueId distance = e.b().Unary(Op::kExp, e.b().Unary(Op::kNeg, e.b().Unary(Op::kAbs, x)));
  const ValueId log_sigmoid =
      e.b().Binary(Op::kSub, e.b().Binary(Op::kMin, e.Number(0, e.out()), x), e.b().Unary(Op::kLog1p, distance));
  const ValueId other = e.b().Binary(Op::kMul, e.b().Binary(Op::kSub, e.Number(1, e.out()), target), x);
  return ReduceLoss(e, e.b().Binary(Op::kSub, other, log_sigmoid), 4);
}

// linalg_vector_norm(x, ord, dim?, keepdim, dtype?) of the orders that need no powers.
EmitResults VectorNorm(Emitter& e) {
  if (!c10::isFloatingType(e.out()) || !c10::isFloatingType(e.operand_meta(0).dtype)) return {e.Fail()};
  const double order = e.constant(1).toScalar().toDouble();
  const ValueId x = e.As(0, e.out());
  if (order == 2) return {e.b().Unary(Op::kSqrt, e.b().Reduce(Op::kReduceSum, e.b().Binary(Op::kMul, x, x)))};
  const ValueId size = e.b().Unary(Op::kAbs, x);
  if (order == 1) return {e.b().Reduce(Op::kReduceSum, size)};
  if (std::isinf(order)) return {e.b().Reduce(order > 0 ? Op::kReduceMax : Op::kReduceMin, size)};
  return {e.Fail()};
}

// Around the largest value, unless that is infinite. Eager rounds each step of it to a narrow type.
EmitResults LogSumExp(Emitter& e) {
  if (!IsWide(e.out())) return {e.Fail()};
  const ValueId x = e.As(0, e.out()), most = e.b().Reduce(Op::kReduceMax, x);
  const ValueId infinity = e.Number(std::numeric_limits<double>::infinity(), e.out());
  const ValueId is_infinite = e.b().Binary(Op::kEq, e.b().Unary(Op::kAbs, most), infinity);
  const ValueId around = e.b().Select(is_infinite, e.Number(0, e.out()), most);
  const ValueId terms = e.b().Unary(Op::kExp, e.b().Binary(Op::kSub, x, around));
  return {e.b().Binary(Op::kAdd, e.b().Unary(Op::kLog, e.b().Reduce(Op::kReduceSum, terms)), around)};
}

template <Op op>
EmitResults Extremum(Emitter& e) {
  ValueId x = e.As(0, e.out());
  if (e.out() != at::ScalarType::Bool) return {e.b().Reduce(op, x)};
  return {e.b().Reduce(op, e.b().Cast(loop::DType::kInt32, x))};
}

// any and all: torch returns uint8 for uint8 inputs.
template <Op op>
EmitResults Quantifier(Emitter& e) {
  if (e.out() != at::ScalarType::Bool) return {e.Fail()};
  return {e.b().Reduce(op, e.b().Cast(loop::DType::kInt32, e.As(0, at::ScalarType::Bool)))};
}

// The first position along `dim` of the extreme value of x, or of NaN.
ValueId ExtremePosition(Emitter& e, ValueId x, ValueId extreme, int64_t dim) {
  ValueId found = e.b().Binary(Op::kEq, x, extreme);
  if (c10::isFloatingType(e.operand_meta(0).dtype)) {
    found = e.b().Binary(Op::kOr, found, e.b().Binary(Op::kNe, x, x));
  }
  const ValueId position = e.b().Cast(loop::DType::kInt32, e.Index(dim));
  const ValueId none = e.b().ConstInt(loop::DType::kInt32, INT32_MAX);
  const ValueId first = e.b().Reduce(Op::kReduceMin, e.b().Select(found, position, none));
  return e.b().Cast(loop::DType::kInt64, first);
}

bool HasPositions(Emitter& e, int64_t dim) {
  const TensorMeta& x = e.operand_meta(0);
  return x.dtype != at::ScalarType::Bool && x.sizes[static_cast<size_t>(dim)] < INT32_MAX;
}

// argmax(input, dim?, keepdim). Over all dimensions only where there is one, since positions are counted along a
// dimension.
template <Op op>
EmitResults ArgExtremum(Emitter& e) {
  const int64_t rank = static_cast<int64_t>(e.operand_meta(0).sizes.size());
  if (rank == 0 || (e.IsNone(1) && rank != 1)) return {e.Fail()};
  const int64_t dim = e.IsNone(1) ? 0 : c10::maybe_wrap_dim(e.constant(1).toInt(), rank);
  if (!HasPositions(e, dim)) return {e.Fail()};
  const ValueId x = e.As(0, e.operand_meta(0).dtype);
  return {ExtremePosition(e, x, e.b().Reduce(op, x), dim)};
}

// max(input, dim, keepdim) -> (values, positions)
template <Op op>
EmitResults ExtremumAndPosition(Emitter& e) {
  const int64_t rank = static_cast<int64_t>(e.operand_meta(0).sizes.size());
  if (rank == 0) return Failed(e, 2);
  const int64_t dim = c10::maybe_wrap_dim(e.constant(1).toInt(), rank);
  if (!HasPositions(e, dim)) return Failed(e, 2);
  const ValueId x = e.As(0, e.operand_meta(0).dtype), extreme = e.b().Reduce(op, x);
  return {extreme, ExtremePosition(e, x, extreme, dim)};
}

// gather(input, dim, index) of one element per row, whose index is checked elsewhere (split_losses.h).
EmitResults Gather(Emitter& e) {
  const at::ScalarType type = e.out();
  if (!c10::isFloatingType(type) || !IsCheckedGather(e.facts(), e.node())) return {e.Fail()};
  const ValueId index = e.b().Cast(loop::DType::kInt32, e.As(2, at::kLong));
  const ValueId position = e.b().Cast(loop::DType::kInt32, e.Index(e.constant(1).toInt()));
  const ValueId here = e.b().Binary(Op::kEq, position, index);
  return {e.b().PickElement(e.As(0, type), here)};
}

// Divisor as torch has it: an empty or zero divisor gives NaN or infinity, like 0 / 0. ATen's kernel for the CPU adds
// up float32 in double precision.
ValueId Variance(Emitter& e, ValueId x, ValueId mean, size_t correction) {
  double amount = e.IsNone(correction) ? 1.0 : e.constant(correction).toScalar().toDouble();
  const bool wide = e.out() == at::kFloat && e.out_meta().device.is_cpu();
  return e.b().Variance(x, mean, amount, wide ? std::optional(loop::DType::kFloat64) : std::nullopt);
}

EmitResults Var(Emitter& e) {
  if (!c10::isFloatingType(e.out())) return {e.Fail()};
  ValueId x = e.As(0, e.out());
  return {Variance(e, x, e.b().Mean(x), 2)};
}

EmitResults Std(Emitter& e) {
  if (!c10::isFloatingType(e.out())) return {e.Fail()};
  ValueId x = e.As(0, e.out());
  return {e.b().Unary(Op::kSqrt, Variance(e, x, e.b().Mean(x), 2))};
}

EmitResults VarMean(Emitter& e) {
  if (!c10::isFloatingType(e.out())) return Failed(e, 2);
  ValueId x = e.As(0, e.out()), mean = e.b().Mean(x);
  return {Variance(e, x, mean, 2), mean};
}

EmitResults Softmax(Emitter& e) {
  if (!c10::isFloatingType(e.out()) || e.constant(2).toBool()) return {e.Fail()};
  ValueId x = e.As(0, e.out());
  ValueId shifted = e.b().Binary(Op::kSub, x, e.b().Reduce(Op::kReduceMax, x));
  ValueId weights = e.b().Unary(Op::kExpNonPositive, shifted);
  return {e.b().Binary(Op::kDiv, weights, e.b().Reduce(Op::kReduceSum, weights))};
}

EmitResults LogSoftmax(Emitter& e) {
  if (!c10::isFloatingType(e.out()) || e.constant(2).toBool()) return {e.Fail()};
  ValueId x = e.As(0, e.out());
  ValueId shifted = e.b().Binary(Op::kSub, x, e.b().Reduce(Op::kReduceMax, x));
  ValueId total = e.b().Reduce(Op::kReduceSum, e.b().Unary(Op::kExpNonPositive, shifted));
  return {e.b().Binary(Op::kSub, shifted, e.b().Unary(Op::kLog, total))};
}

// native_layer_norm(input, normalized_shape, weight?, bias?, eps) -> (output, mean, rstd)
EmitResults LayerNorm(Emitter& e) {
  at::ScalarType type = e.out();
  if (!c10::isFloatingType(type)) return Failed(e, 3);
  ValueId x = e.As(0, type), mean = e.b().Mean(x);
  ValueId variance = e.b().Variance(x, mean, 0);
  ValueId rstd = e.b().Unary(Op::kRsqrt, e.b().Binary(Op::kAdd, variance, e.NumberOperand(4, type)));
  ValueId result = e.b().Binary(Op::kMul, e.b().Binary(Op::kSub, x, mean), rstd);
  // Parameters of mixed precision are read in their own type: As would round them to the input's.
  auto parameter = [&](size_t operand) { return e.b().Cast(ComputeDType(*LoopDType(type)), e.Get(operand).value); };
  if (!e.IsNone(2)) result = e.b().Binary(Op::kMul, result, parameter(2));
  if (!e.IsNone(3)) result = e.b().Binary(Op::kAdd, result, parameter(3));
  return {result, mean, rstd};
}

constexpr EmitRule Row(EmitResults (*emit)(Emitter&), int dims_operand, Exact exact = Exact::kNever) {
  return {.kind = NodeKind::kRow, .emit = emit, .dims_operand = dims_operand, .exact = exact};
}

// any and all over several dimensions, of which no dimensions are none.
constexpr EmitRule Dims(EmitResults (*emit)(Emitter&)) {
  EmitRule rule = Row(emit, 1, Exact::kIntegers);
  rule.empty_means_none = true;
  return rule;
}

const NamedRule kRules[] = {
    {"aten::sum", Row(Sum, -1, Exact::kIntegers)},
    {"aten::sum.dim_IntList", Row(Sum, 1, Exact::kIntegers)},
    {"aten::mean", Row(Mean, -1)},
    {"aten::mean.dim", Row(Mean, 1)},
    {"aten::prod", Row(Product, -1, Exact::kIntegers)},
    {"aten::prod.dim_int", Row(Product, 1, Exact::kIntegers)},
    {"aten::mse_loss", Row(MeanSquare, -1)},
    {"aten::binary_cross_entropy_with_logits", Row(CrossEntropyOfLogits, -1)},
    {"aten::linalg_vector_norm", Row(VectorNorm, 2)},
    {"aten::logsumexp", Row(LogSumExp, 1)},
    {"aten::max.dim", Row(ExtremumAndPosition<Op::kReduceMax>, 1, Exact::kIntegers)},
    {"aten::min.dim", Row(ExtremumAndPosition<Op::kReduceMin>, 1, Exact::kIntegers)},
    {"aten::max", Row(Extremum<Op::kReduceMax>, -1, Exact::kIntegers)},
    {"aten::min", Row(Extremum<Op::kReduceMin>, -1, Exact::kIntegers)},
    {"aten::amax", Row(Extremum<Op::kReduceMax>, 1, Exact::kIntegers)},
    {"aten::amin", Row(Extremum<Op::kReduceMin>, 1, Exact::kIntegers)},
    {"aten::argmax", Row(ArgExtremum<Op::kReduceMax>, 1, Exact::kAlways)},
    {"aten::argmin", Row(ArgExtremum<Op::kReduceMin>, 1, Exact::kAlways)},
    {"aten::gather", Row(Gather, 1)},
    {"aten::any", Row(Quantifier<Op::kReduceMax>, -1, Exact::kIntegers)},
    {"aten::any.dim", Row(Quantifier<Op::kReduceMax>, 1, Exact::kIntegers)},
    {"aten::any.dims", Dims(Quantifier<Op::kReduceMax>)},
    {"aten::all", Row(Quantifier<Op::kReduceMin>, -1, Exact::kIntegers)},
    {"aten::all.dim", Row(Quantifier<Op::kReduceMin>, 1, Exact::kIntegers)},
    {"aten::all.dims", Dims(Quantifier<Op::kReduceMin>)},
    {"aten::var.correction", Row(Var, 1)},
    {"aten::std.correction", Row(Std, 1)},
    {"aten::var_mean.correction", Row(VarMean, 1)},
    {"aten::_softmax", Row(Softmax, 1)},
    {"aten::_log_softmax", Row(LogSoftmax, 1)},
    {"aten::native_layer_norm", {NodeKind::kRow, LayerNorm, 1, /*trailing_dims=*/true}},
};

}  // namespace

c10::ArrayRef<NamedRule> RowRules() { return kRules; }

}  // namespace framejit::native
