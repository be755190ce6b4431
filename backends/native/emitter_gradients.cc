// The derivatives that autograd has operators of their own for: activations, losses and softmax, with the formulas of
// ATen's CPU kernels (aten/src/ATen/native/cpu). Operand 0 is the incoming gradient.
#include <ATen/core/Reduction.h>

#include <cmath>

#include "backends/native/emitter_rules.h"

namespace framejit::native {
namespace {

using loop::Op;
using loop::ValueId;

// Emission of a floating derivative: the gradient and the value beside it in the compute type, rounded once at the end.
struct Derivative {
  Derivative(Emitter& emitter, size_t value_operand) : e(emitter), type(emitter.out()) {
    ok = c10::isFloatingType(type);
    gradient = ok ? e.As(0, type) : e.Fail();
    x = ok ? e.As(value_operand, type) : e.Fail();
  }
  ValueId Number(double value) { return ok ? e.Number(value, type) : e.Fail(); }
  ValueId Operand(size_t i) { return ok ? e.NumberOperand(i, type) : e.Fail(); }
  ValueId Bin(Op op, ValueId a, ValueId b) { return ok ? e.b().Binary(op, a, b) : a; }
  ValueId Mul(ValueId a, ValueId b) { return Bin(Op::kMul, a, b); }
  ValueId Add(ValueId a, ValueId b) { return Bin(Op::kAdd, a, b); }
  ValueId Sub(ValueId a, ValueId b) { return Bin(Op::kSub, a, b); }
  ValueId Un(Op op, ValueId a) { return ok ? e.b().Unary(op, a) : a; }
  ValueId Select(ValueId c, ValueId a, ValueId b) { return ok ? e.b().Select(c, a, b) : a; }

  Emitter& e;
  at::ScalarType type;
  bool ok = false;
  ValueId gradient;
  ValueId x;
};

EmitResults Threshold(Emitter& e) {
  Derivative d(e, 1);
  return {d.Select(d.Bin(Op::kLe, d.x, d.Operand(2)), d.Number(0), d.gradient)};
}

EmitResults Tanh(Emitter& e) {
  Derivative d(e, 1);
  return {d.Mul(d.gradient, d.Sub(d.Number(1), d.Mul(d.x, d.x)))};
}

EmitResults Sigmoid(Emitter& e) {
  Derivative d(e, 1);
  return {d.Mul(d.Mul(d.gradient, d.Sub(d.Number(1), d.x)), d.x)};
}

EmitResults TanhGelu(Derivative& d) {
  constexpr double kBeta = M_SQRT2 * M_2_SQRTPI * 0.5, kKappa = 0.044715;
  ValueId square = d.Mul(d.x, d.x), cube = d.Mul(square, d.x);
  ValueId inner = d.Mul(d.Number(kBeta), d.Add(d.x, d.Mul(d.Number(kKappa), cube)));
  ValueId tanh = d.Un(Op::kTanh, inner);
  ValueId left = d.Mul(d.Number(0.5), d.x), right = d.Add(d.Number(1), tanh);
  ValueId tanh_slope = d.Sub(d.Number(1), d.Mul(tanh, tanh));
  ValueId inner_slope = d.Mul(d.Number(kBeta), d.Add(d.Number(1), d.Mul(d.Number(3 * kKappa), square)));
  ValueId right_slope = d.Mul(d.Mul(left, tanh_slope), inner_slope);
  return {d.Mul(d.gradient, d.Add(d.Mul(d.Number(0.5), right), right_slope))};
}

EmitResults Gelu(Emitter& e) {
  Derivative d(e, 1);
  if (!d.ok) return {d.x};
  if (e.constant(2).toStringRef() == "tanh") return TanhGelu(d);
  ValueId cumulative = d.Un(Op::kNormalCdf, d.x);
  ValueId bell = d.Un(Op::kExpNonPositive, d.Mul(d.Mul(d.x, d.x), d.Number(-0.5)));
  ValueId density = d.Mul(d.Number(M_2_SQRTPI * M_SQRT1_2 * 0.5), bell);
  return {d.Mul(d.gradient, d.Add(cumulative, d.Mul(d.x, density)))};
}

EmitResults Silu(Emitter& e) {
  Derivative d(e, 1);
  ValueId sigmoid = d.Bin(Op::kDiv, d.Number(1), d.Add(d.Number(1), d.Un(Op::kExp, d.Un(Op::kNeg, d.x))));
  ValueId slope = d.Add(d.Number(1), d.Mul(d.x, d.Sub(d.Number(1), sigmoid)));
  return {d.Mul(d.Mul(d.gradient, sigmoid), slope)};
}

EmitResults LeakyRelu(Emitter& e) {
  Derivative d(e, 1);
  return {d.Select(d.Bin(Op::kGt, d.x, d.Number(0)), d.gradient, d.Mul(d.gradient, d.Operand(2)))};
}

EmitResults Hardtanh(Emitter& e) {
  Derivative d(e, 1);
  if (!d.ok) return {d.x};
  // NaN is not inside, nor is it outside for kernels of GPUs.
  if (!e.out_meta().device.is_cpu()) {
    ValueId outside = e.b().Binary(Op::kOr, d.Bin(Op::kLe, d.x, d.Operand(2)), d.Bin(Op::kGe, d.x, d.Operand(3)));
    return {d.Select(outside, d.Number(0), d.gradient)};
  }
  ValueId inside = e.b().Binary(Op::kAnd, d.Bin(Op::kGt, d.x, d.Operand(2)), d.Bin(Op::kLt, d.x, d.Operand(3)));
  return {d.Select(inside, d.gradient, d.Number(0))};
}

// mse_loss_backward(gradient, x, target, reduction)
EmitResults MeanSquare(Emitter& e) {
  Derivative d(e, 1);
  if (!d.ok || d.type == at::ScalarType::Half || d.type == at::ScalarType::BFloat16) return {e.Fail()};
  const bool mean = e.constant(3).toInt() == at::Reduction::Mean;
  const double norm = mean ? 2.0 / static_cast<double>(e.out_meta().numel()) : 2.0;
  ValueId difference = d.Sub(d.x, e.As(2, d.type));
  return {d.Mul(d.Mul(d.Number(norm), difference), d.gradient)};
}

// nll_loss_backward(gradient, log_probabilities, target, weight?, reduction, ignore_index, total_weight) over rows of
// classes: the forward has seen that the targets are classes.
EmitResults NegativeLogLikelihood(Emitter& e) {
  const at::ScalarType type = e.out();
  const int64_t reduction = e.constant(4).toInt(), ignored = e.constant(5).toInt();
  const int64_t classes = e.out_meta().sizes.empty() ? 0 : e.out_meta().sizes.back();
  if ((type != at::ScalarType::Float && type != at::ScalarType::Double) || !e.IsNone(3) || classes > INT32_MAX ||
      reduction == at::Reduction::None || e.out_meta().sizes.size() != 2 || e.operand_meta(2).dtype != at::kLong) {
    return {e.Fail()};
  }
  ValueId gradient = e.b().Unary(Op::kNeg, e.As(0, type)), target = e.As(e.Get(2, 0), at::kLong);
  if (reduction == at::Reduction::Mean) gradient = e.b().Binary(Op::kDiv, gradient, e.As(6, type));
  const ValueId counts = e.b().Binary(Op::kNe, target, e.b().ConstInt(loop::DType::kInt64, ignored));
  const ValueId of_row = e.b().Select(counts, gradient, e.Number(0, type));
  const ValueId here =
      e.b().Binary(Op::kEq, e.b().Cast(loop::DType::kInt32, e.Index(1)), e.b().Cast(loop::DType::kInt32, target));
  return {e.b().Select(here, of_row, e.Number(0, type))};
}

// _softmax_backward_data(gradient, y, dim, input_dtype); the same for log_softmax.
bool KeepsType(Emitter& e) { return c10::isFloatingType(e.out()) && e.operand_meta(0).dtype == e.out(); }

EmitResults Softmax(Emitter& e) {
  if (!KeepsType(e)) return {e.Fail()};
  ValueId gradient = e.As(0, e.out()), y = e.As(1, e.out());
  ValueId sum = e.b().Reduce(Op::kReduceSum, e.b().Binary(Op::kMul, gradient, y));
  return {e.b().Binary(Op::kMul, e.b().Binary(Op::kSub, gradient, sum), y)};
}

EmitResults LogSoftmax(Emitter& e) {
  if (!KeepsType(e)) return {e.Fail()};
  ValueId gradient = e.As(0, e.out()), y = e.As(1, e.out());
  ValueId sum = e.b().Reduce(Op::kReduceSum, gradient);
  return {e.b().Binary(Op::kSub, gradient, e.b().Binary(Op::kMul, e.b().Unary(Op::kExp, y), sum))};
}

// native_layer_norm_backward(gradient, x, normalized_shape, mean, rstd, weight?, bias?, mask): that of x alone; the
// others are sums over the batch (norm_gradients.h).
EmitResults LayerNorm(Emitter& e) {
  at::ScalarType type = e.out();
  const c10::List<bool> mask = e.constant(7).toBoolList();
  if (!KeepsType(e) || !mask[0] || mask[1] || mask[2]) return {e.Fail(), e.Fail(), e.Fail()};
  ValueId gradient = e.As(0, type), rstd = e.As(4, type);
  ValueId normal = e.b().Binary(Op::kMul, e.b().Binary(Op::kSub, e.As(1, type), e.As(3, type)), rstd);
  if (!e.IsNone(5)) gradient = e.b().Binary(Op::kMul, gradient, e.As(5, type));
  ValueId mean = e.b().Mean(gradient), slope = e.b().Mean(e.b().Binary(Op::kMul, gradient, normal));
  ValueId rest = e.b().Binary(Op::kSub, e.b().Binary(Op::kSub, gradient, mean), e.b().Binary(Op::kMul, normal, slope));
  ValueId result = e.b().Binary(Op::kMul, rest, rstd);
  return {result, result, result};
}

constexpr EmitRule P(EmitResults (*emit)(Emitter&)) { return {NodeKind::kPointwise, emit}; }
constexpr EmitRule E(EmitResults (*emit)(Emitter&)) { return AsExact(P(emit)); }
constexpr EmitRule Row(EmitResults (*emit)(Emitter&), int dims_operand) { return {NodeKind::kRow, emit, dims_operand}; }

const NamedRule kRules[] = {
    {"aten::threshold_backward", E(Threshold)},
    {"aten::tanh_backward", P(Tanh)},
    {"aten::sigmoid_backward", P(Sigmoid)},
    {"aten::gelu_backward", P(Gelu)},
    {"aten::silu_backward", P(Silu)},
    {"aten::leaky_relu_backward", E(LeakyRelu)},
    {"aten::hardtanh_backward", E(Hardtanh)},
    {"aten::mse_loss_backward", P(MeanSquare)},
    {"aten::nll_loss_backward", {NodeKind::kPointwise, NegativeLogLikelihood, -1, false, false, /*operand_dim=*/0}},
    {"aten::_softmax_backward_data", Row(Softmax, 2)},
    {"aten::_log_softmax_backward_data", Row(LogSoftmax, 2)},
    {"aten::native_layer_norm_backward", {NodeKind::kRow, LayerNorm, 2, /*trailing_dims=*/true}},
};

}  // namespace

c10::ArrayRef<NamedRule> GradientRules() { return kRules; }

}  // namespace framejit::native
