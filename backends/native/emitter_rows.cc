// Operators over rows: reductions, softmax, layer norm. Operand 0 is an element value of the kernel; its reduced
// dimensions are the kernel's inner dimension.
#include <ATen/core/Reduction.h>
#include <c10/core/WrapDimMinimal.h>

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

// mse_loss(x, y, reduction) where it reduces; what is rounded in between stays with ATen.
EmitResults MeanSquare(Emitter& e) {
  const at::ScalarType type = e.out();
  const int64_t reduction = e.constant(2).toInt();
  if ((type != at::ScalarType::Float && type != at::ScalarType::Double) || reduction == at::Reduction::None ||
      e.operand_meta(0).sizes != e.operand_meta(1).sizes) {
    return {e.Fail()};
  }
  const ValueId difference = e.b().Binary(Op::kSub, e.As(0, type), e.As(1, type));
  const ValueId square = e.b().Binary(Op::kMul, difference, difference);
  return {reduction == at::Reduction::Mean ? e.b().Mean(square) : e.b().Reduce(Op::kReduceSum, square)};
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

// argmax(input, dim?, keepdim): the first of the extreme values, or the first NaN. Over all dimensions only where there
// is one, since positions are counted along a dimension.
template <Op op>
EmitResults ArgExtremum(Emitter& e) {
  const at::ScalarType type = e.operand_meta(0).dtype;
  const int64_t rank = static_cast<int64_t>(e.operand_meta(0).sizes.size());
  if (rank == 0 || (e.IsNone(1) && rank != 1) || type == at::ScalarType::Bool) return {e.Fail()};
  const int64_t dim = e.IsNone(1) ? 0 : c10::maybe_wrap_dim(e.constant(1).toInt(), rank);
  if (e.operand_meta(0).sizes[static_cast<size_t>(dim)] >= INT32_MAX) return {e.Fail()};
  const ValueId x = e.As(0, type);
  ValueId found = e.b().Binary(Op::kEq, x, e.b().Reduce(op, x));
  if (c10::isFloatingType(type)) found = e.b().Binary(Op::kOr, found, e.b().Binary(Op::kNe, x, x));
  const ValueId position = e.b().Cast(loop::DType::kInt32, e.Index(dim));
  const ValueId none = e.b().ConstInt(loop::DType::kInt32, INT32_MAX);
  const ValueId first = e.b().Reduce(Op::kReduceMin, e.b().Select(found, position, none));
  return {e.b().Cast(loop::DType::kInt64, first)};
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

// Divisor as torch has it: an empty or zero divisor gives NaN or infinity, like 0 / 0.
ValueId Variance(Emitter& e, ValueId x, ValueId mean, size_t correction) {
  double amount = e.IsNone(correction) ? 1.0 : e.constant(correction).toScalar().toDouble();
  return e.b().Variance(x, mean, amount);
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
    {"aten::mse_loss", Row(MeanSquare, -1)},
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
