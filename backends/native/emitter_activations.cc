// Activation functions and inference batch norm, with the formulas of ATen's CPU kernels (aten/src/ATen/native/cpu).
#include <cmath>

#include "backends/native/emitter_rules.h"
#include "graph/number_operand.h"

namespace framejit::native {
namespace {

using loop::Op;
using loop::ValueId;

// Emission of a floating activation: operand 0 in the compute type, rounded once at the end.
struct Activation {
  explicit Activation(Emitter& emitter) : e(emitter), type(emitter.out()) {
    ok = c10::isFloatingType(type);
    x = ok ? e.As(0, type) : e.Fail();
  }
  ValueId Number(double value) { return ok ? e.Number(value, type) : e.Fail(); }
  ValueId Operand(size_t i) { return ok ? e.NumberOperand(i, type) : e.Fail(); }
  ValueId Bin(Op op, ValueId a, ValueId b) { return ok ? e.b().Binary(op, a, b) : a; }
  ValueId Un(Op op, ValueId a) { return ok ? e.b().Unary(op, a) : a; }
  ValueId Select(ValueId c, ValueId a, ValueId b) { return ok ? e.b().Select(c, a, b) : a; }

  Emitter& e;
  at::ScalarType type;
  bool ok = false;
  ValueId x;
};

EmitResults Relu(Emitter& e) {
  if (e.out() == at::ScalarType::Bool) return {e.Fail()};
  return {e.b().Binary(Op::kMax, e.Number(0, e.out()), e.As(0, e.out()))};  // relu(-0.0) is -0.0
}

EmitResults Gelu(Emitter& e) {
  Activation a(e);
  if (!a.ok) return {a.x};
  if (e.constant(1).toStringRef() != "tanh") return {a.Un(Op::kGelu, a.x)};
  ValueId cube = a.Bin(Op::kMul, a.Bin(Op::kMul, a.x, a.x), a.x);
  ValueId sum = a.Bin(Op::kAdd, a.x, a.Bin(Op::kMul, a.Number(0.044715), cube));
  // (1 + tanh(u)) / 2 is sigmoid(2 u).
  return {a.Bin(Op::kMul, a.x, a.Un(Op::kSigmoid, a.Bin(Op::kMul, a.Number(M_SQRT2 * M_2_SQRTPI), sum)))};
}

EmitResults Silu(Emitter& e) {
  Activation a(e);
  return {a.Bin(Op::kDiv, a.x, a.Bin(Op::kAdd, a.Number(1), a.Un(Op::kExp, a.Un(Op::kNeg, a.x))))};
}

// x tanh(log(1 + e^x)) is x n / (1 + n) with n = e^x + e^2x / 2, where the quotient is 1 from e^x = 2^27 on.
EmitResults Mish(Emitter& e) {
  Activation a(e);
  ValueId power = a.Un(Op::kExp, a.Bin(Op::kMin, a.Number(20), a.x));
  ValueId half_square = a.Bin(Op::kMul, a.Bin(Op::kMul, power, power), a.Number(0.5));
  ValueId n = a.Bin(Op::kAdd, power, half_square);
  return {a.Bin(Op::kMul, a.x, a.Bin(Op::kDiv, n, a.Bin(Op::kAdd, n, a.Number(1))))};
}

EmitResults LeakyRelu(Emitter& e) {
  Activation a(e);
  ValueId scaled = a.Bin(Op::kMul, a.x, a.Operand(1));
  return {a.Select(a.Bin(Op::kGt, a.x, a.Number(0)), a.x, scaled)};
}

// The factors are multiplied as ATen's kernel does it, in the type that it computes in.
EmitResults OpenElu(Activation& a) {
  ValueId power = a.Un(Op::kExpm1, a.Bin(Op::kMul, a.x, a.Operand(3)));
  ValueId negative = a.Bin(Op::kMul, power, a.Bin(Op::kMul, a.Operand(1), a.Operand(2)));
  return {a.Select(a.Bin(Op::kLt, a.x, a.Number(0)), negative, a.Bin(Op::kMul, a.x, a.Operand(2)))};
}

EmitResults Elu(Emitter& e) {
  Activation a(e);
  if (IsNumberOperand(e.node(), 1) || IsNumberOperand(e.node(), 2) || IsNumberOperand(e.node(), 3)) return OpenElu(a);
  double alpha = e.constant(1).toScalar().toDouble(), scale = e.constant(2).toScalar().toDouble();
  double input_scale = e.constant(3).toScalar().toDouble();
  ValueId negative =
      a.Bin(Op::kMul, a.Un(Op::kExpm1, a.Bin(Op::kMul, a.x, a.Number(input_scale))), a.Number(alpha * scale));
  ValueId positive = a.Bin(Op::kMul, a.x, a.Number(scale));
  return {a.Select(a.Bin(Op::kLt, a.x, a.Number(0)), negative, positive)};
}

EmitResults Softplus(Emitter& e) {
  Activation a(e);
  ValueId beta = a.Operand(1), scaled = a.Bin(Op::kMul, a.x, beta);
  ValueId soft = a.Bin(Op::kDiv, a.Un(Op::kLog1p, a.Un(Op::kExp, scaled)), beta);
  return {a.Select(a.Bin(Op::kGt, scaled, a.Operand(2)), a.x, soft)};
}

EmitResults Hardtanh(Emitter& e) {
  Activation a(e);
  return {a.Bin(Op::kMin, a.Operand(2), a.Bin(Op::kMax, a.Operand(1), a.x))};
}

// min(max(x + 3, 0), 6)
ValueId Ramp(Activation& a) {
  ValueId shifted = a.Bin(Op::kAdd, a.x, a.Number(3));
  return a.Bin(Op::kMin, a.Number(6), a.Bin(Op::kMax, a.Number(0), shifted));
}

EmitResults Hardsigmoid(Emitter& e) {
  Activation a(e);
  return {a.Bin(Op::kDiv, Ramp(a), a.Number(6))};
}

EmitResults Hardswish(Emitter& e) {
  Activation a(e);
  return {a.Bin(Op::kDiv, a.Bin(Op::kMul, a.x, Ramp(a)), a.Number(6))};
}

EmitResults Threshold(Emitter& e) {
  Activation a(e);
  return {a.Select(a.Bin(Op::kLe, a.x, a.Operand(1)), a.Operand(2), a.x)};
}

// Batch norm with running statistics: x * alpha + beta per channel. The saved statistics are empty tensors in eager.
EmitResults BatchNormInference(Emitter& e, size_t mean_operand, size_t eps_operand) {
  at::ScalarType type = e.out();
  if (type != at::ScalarType::Float && type != at::ScalarType::Double) return {e.Fail(), e.Fail(), e.Fail()};
  if (e.IsNone(mean_operand) || e.IsNone(mean_operand + 1)) return {e.Fail(), e.Fail(), e.Fail()};
  ValueId mean = e.As(e.Get(mean_operand, 1), type), variance = e.As(e.Get(mean_operand + 1, 1), type);
  ValueId shifted = e.b().Binary(Op::kAdd, variance, e.NumberOperand(eps_operand, type));
  ValueId alpha = e.b().Binary(Op::kDiv, e.Number(1, type), e.b().Unary(Op::kSqrt, shifted));
  if (!e.IsNone(1)) alpha = e.b().Binary(Op::kMul, alpha, e.As(e.Get(1, 1), type));
  ValueId beta = e.b().Unary(Op::kNeg, e.b().Binary(Op::kMul, mean, alpha));
  if (!e.IsNone(2)) beta = e.b().Binary(Op::kAdd, beta, e.As(e.Get(2, 1), type));
  ValueId result = e.b().Binary(Op::kAdd, e.b().Binary(Op::kMul, e.As(0, type), alpha), beta);
  return {result, loop::kNoValue, loop::kNoValue};
}

EmitResults BatchNormNoTraining(Emitter& e) { return BatchNormInference(e, 3, 6); }

EmitResults NativeBatchNorm(Emitter& e) {
  if (e.constant(5).toBool()) return {e.Fail(), e.Fail(), e.Fail()};  // training: statistics of the batch
  return BatchNormInference(e, 3, 7);
}

constexpr EmitRule P(EmitResults (*emit)(Emitter&)) { return {NodeKind::kPointwise, emit}; }
constexpr EmitRule E(EmitResults (*emit)(Emitter&)) { return AsExact(P(emit)); }

constexpr EmitRule Channelwise(EmitResults (*emit)(Emitter&)) {
  EmitRule rule = P(emit);
  rule.operand_dim = 1;
  return rule;
}

const NamedRule kRules[] = {
    {"aten::relu", E(Relu)},
    {"aten::gelu", P(Gelu)},
    {"aten::silu", P(Silu)},
    {"aten::mish", P(Mish)},
    {"aten::leaky_relu", E(LeakyRelu)},
    {"aten::elu", P(Elu)},
    {"aten::softplus", P(Softplus)},
    {"aten::hardtanh", E(Hardtanh)},
    {"aten::hardsigmoid", E(Hardsigmoid)},
    {"aten::hardswish", E(Hardswish)},
    {"aten::threshold", E(Threshold)},
    {"aten::_native_batch_norm_legit_no_training", Channelwise(BatchNormNoTraining)},
    {"aten::native_batch_norm", Channelwise(NativeBatchNorm)},
};

}  // namespace

c10::ArrayRef<NamedRule> ActivationRules() { return kRules; }

}  // namespace framejit::native
