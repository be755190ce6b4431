// Arithmetic, comparisons, logic, casts, copies and factories; and the lookup over all parts of the table.
#include <algorithm>
#include <array>
#include <cmath>

#include "backends/native/emitter_rules.h"
#include "graph/number_operand.h"
#include "graph/operator_table.h"

namespace framejit::native {
namespace {

using loop::Op;
using loop::ValueId;

EmitResults One(ValueId value) { return {value}; }

bool IsReduced(at::ScalarType type) { return type == at::ScalarType::Half || type == at::ScalarType::BFloat16; }
bool IsIntegral(at::ScalarType type) { return c10::isIntegralType(type, /*includeBool=*/true); }

// Unary operators whose result is floating: integers are converted first.
template <Op op>
EmitResults FloatUnary(Emitter& e) {
  if (!c10::isFloatingType(e.out())) return One(e.Fail());
  return One(e.b().Unary(op, e.As(0, e.out())));
}

// On reduced types ATen's kernel rounds in between on some machines.
EmitResults Rsqrt(Emitter& e) {
  if (e.strict() && IsReduced(e.out())) return One(e.Fail());
  return FloatUnary<Op::kRsqrt>(e);
}

// floor and its like return integers as they are.
template <Op op>
EmitResults Rounding(Emitter& e) {
  if (e.out() == at::ScalarType::Bool) return One(e.Fail());
  ValueId x = e.As(0, e.out());
  return One(IsIntegral(e.out()) ? x : e.b().Unary(op, x));
}

template <Op op>
EmitResults SignedUnary(Emitter& e) {
  if (e.out() == at::ScalarType::Bool) return One(e.Fail());
  ValueId x = e.As(0, e.out());
  if (op == Op::kAbs && e.out() == at::ScalarType::Byte) return One(x);
  return One(e.b().Unary(op, x));
}

EmitResults Sign(Emitter& e) {
  if (e.out() == at::ScalarType::Bool) return One(e.Fail());
  ValueId x = e.As(0, e.out()), zero = e.Number(0, e.out());
  ValueId negative = e.b().Select(e.b().Binary(Op::kLt, x, zero), e.Number(-1, e.out()), zero);
  return One(e.b().Select(e.b().Binary(Op::kGt, x, zero), e.Number(1, e.out()), negative));
}

// a + alpha * b or a - alpha * b. On reduced types ATen rounds alpha * b, so that case stays with ATen.
EmitResults AddSub(Emitter& e, Op op, Emitter::Arg a, Emitter::Arg b) {
  const c10::IValue& alpha = e.constant(2);
  bool unit = alpha.isInt() ? alpha.toInt() == 1 : alpha.isDouble() && alpha.toDouble() == 1;
  at::ScalarType type = e.out();
  if (type == at::ScalarType::Bool || (!unit && IsReduced(type))) return One(e.Fail());
  if (!unit && e.strict() && !IsIntegral(type)) return One(e.Fail());  // ATen contracts it
  ValueId right = e.As(b, type);
  if (!unit) right = e.b().Binary(Op::kMul, right, e.NumberOperand(2, type));
  return One(e.b().Binary(op, e.As(a, type), right));
}

EmitResults Add(Emitter& e) {
  if (e.out() == at::ScalarType::Bool && e.constant(2).isInt() && e.constant(2).toInt() == 1) {
    return One(e.b().Binary(Op::kOr, e.As(0, e.out()), e.As(1, e.out())));
  }
  return AddSub(e, Op::kAdd, e.Get(0), e.Get(1));
}
EmitResults Sub(Emitter& e) { return AddSub(e, Op::kSub, e.Get(0), e.Get(1)); }
EmitResults Rsub(Emitter& e) { return AddSub(e, Op::kSub, e.Get(1), e.Get(0)); }

EmitResults Mul(Emitter& e) {
  at::ScalarType type = e.out();
  Op op = type == at::ScalarType::Bool ? Op::kAnd : Op::kMul;
  return One(e.b().Binary(op, e.As(0, type), e.As(e.Get(1), type, IsReduced(type))));
}

EmitResults Div(Emitter& e) {
  at::ScalarType type = e.out();
  if (!c10::isFloatingType(type)) return One(e.Fail());
  return One(e.b().Binary(Op::kDiv, e.As(0, type), e.As(e.Get(1), type, IsReduced(type))));
}

template <Op op>
EmitResults FloatBinary(Emitter& e) {
  if (!c10::isFloatingType(e.out())) return One(e.Fail());
  return One(e.b().Binary(op, e.As(0, e.out()), e.As(1, e.out())));
}

// Minimum and maximum; bools are compared as integers.
ValueId Extremum(Emitter& e, Op op, ValueId x, ValueId y) {
  if (e.b().dtype_of(x) != loop::DType::kBool) return e.b().Binary(op, x, y);
  return e.b().Binary(op == Op::kMax ? Op::kOr : Op::kAnd, x, y);
}

template <Op op>
EmitResults MinMax(Emitter& e) {
  return One(Extremum(e, op, e.As(0, e.out()), e.As(1, e.out())));
}

EmitResults PowScalarExponent(Emitter& e) {
  at::ScalarType type = e.out();
  // An open exponent is none of those that ATen has other formulas for.
  if (IsNumberOperand(e.node(), 1)) {
    if (!c10::isFloatingType(type) || e.strict()) return One(e.Fail());
    return One(e.b().Binary(Op::kPow, e.As(0, type), e.NumberOperand(1, type)));
  }
  if (!e.constant(1).isInt() && !e.constant(1).isDouble()) return One(e.Fail());
  double exponent = e.constant(1).toScalar().toDouble();
  ValueId x = e.As(0, type);
  if (exponent == 2 && type != at::ScalarType::Bool) return One(e.b().Binary(Op::kMul, x, x));
  // ATen rounds the intermediate products of reduced types, takes float16 on the CPU through std::pow where others have
  // products and square roots (which differ on -0.0 and -infinity), and integer powers are its own.
  if (!c10::isFloatingType(type) || (IsReduced(type) && exponent == -2)) return One(e.Fail());
  if (IsReduced(type) && exponent == 3) {
    if (type == at::ScalarType::Half && e.facts().device.is_cpu()) return One(e.Fail());
    const ValueId square = e.As({.dtype = type, .value = e.b().Binary(Op::kMul, x, x)}, type);
    return One(e.b().Binary(Op::kMul, square, x));
  }
  if (type == at::ScalarType::Half && (exponent == 0.5 || exponent == -0.5)) return One(e.Fail());
  if (exponent == 0) return One(e.Number(1, type));
  const ValueId power = e.b().Binary(Op::kPow, x, e.Number(exponent, type));
  // Eager's square roots are MKL's, which are not always the nearest number, and those of reduced types its own.
  const bool roots = e.b().op_of(power) == Op::kPow || e.b().op_of(power) == Op::kSqrt || IsReduced(type);
  if (e.strict() && roots) return One(e.Fail());
  return One(power);
}

template <Op op>
EmitResults Compare(Emitter& e) {
  at::ScalarType common = e.Common({0, 1});
  if (!LoopDType(common)) return One(e.Fail());
  ValueId x = e.As(0, common), y = e.As(1, common);
  if (common == at::ScalarType::Bool) {
    x = e.b().Cast(loop::DType::kInt32, x);
    y = e.b().Cast(loop::DType::kInt32, y);
  }
  return One(e.b().Binary(op, x, y));
}

template <Op op>
EmitResults Bitwise(Emitter& e) {
  if (!IsIntegral(e.out())) return One(e.Fail());
  return One(e.b().Binary(op, e.As(0, e.out()), e.As(1, e.out())));
}

EmitResults BitwiseNot(Emitter& e) {
  if (!IsIntegral(e.out())) return One(e.Fail());
  return One(e.b().Unary(Op::kNot, e.As(0, e.out())));
}

// An operand as a truth value, from its own type.
ValueId Truth(Emitter& e, size_t operand) { return e.As(operand, at::ScalarType::Bool); }

template <Op op>
EmitResults Logical(Emitter& e) {
  return One(e.b().Binary(op, Truth(e, 0), Truth(e, 1)));
}
EmitResults LogicalNot(Emitter& e) { return One(e.b().Unary(Op::kNot, Truth(e, 0))); }

EmitResults IsNan(Emitter& e) {
  if (!c10::isFloatingType(e.operand_meta(0).dtype)) return One(e.Fail());
  ValueId x = e.As(0, e.operand_meta(0).dtype);
  return One(e.b().Binary(Op::kNe, x, x));
}

EmitResults Where(Emitter& e) {
  Emitter::Arg condition = e.Get(0);
  if (condition.dtype != at::ScalarType::Bool) return One(e.Fail());
  return One(e.b().Select(e.As(condition, at::ScalarType::Bool), e.As(1, e.out()), e.As(2, e.out())));
}

EmitResults MaskedFill(Emitter& e) {
  Emitter::Arg mask = e.Get(1);
  if (mask.dtype != at::ScalarType::Bool) return One(e.Fail());
  return One(e.b().Select(e.As(mask, at::ScalarType::Bool), e.As(2, e.out()), e.As(0, e.out())));
}

// A value equal to its bound stays itself: clamp(-0.0, min=0) is -0.0. Binary takes the second of equal operands.
template <Op op>
EmitResults ClampOne(Emitter& e) {
  return One(Extremum(e, op, e.As(1, e.out()), e.As(0, e.out())));
}

// clamp(x, max=nan) is NaN on the CPU; ATen's kernels for GPUs bound nothing by it. With two bounds all is NaN there,
// too.
bool IsBoundedByNan(Emitter& e) {
  if (e.IsNone(1) == e.IsNone(2)) return false;
  const Emitter::Arg bound = e.Get(e.IsNone(1) ? 2 : 1);
  return bound.is_number && bound.number.isFloatingPoint() && std::isnan(bound.number.toDouble());
}

EmitResults Clamp(Emitter& e) {
  if (e.out() == at::ScalarType::Bool) return One(e.Fail());
  if (e.facts().device.is_cuda() && IsBoundedByNan(e)) return One(e.Fail());
  ValueId x = e.As(0, e.out());
  if (!e.IsNone(1)) x = e.b().Binary(Op::kMax, e.As(1, e.out()), x);
  if (!e.IsNone(2)) x = e.b().Binary(Op::kMin, e.As(2, e.out()), x);
  return One(x);
}

EmitResults AddcMul(Emitter& e) {
  if (!c10::isFloatingType(e.out())) return One(e.Fail());
  ValueId product = e.b().Binary(Op::kMul, e.NumberOperand(3, e.out()), e.As(1, e.out()));
  return One(e.b().Binary(Op::kAdd, e.As(0, e.out()), e.b().Binary(Op::kMul, product, e.As(2, e.out()))));
}

EmitResults AddcDiv(Emitter& e) {
  if (!c10::isFloatingType(e.out())) return One(e.Fail());
  ValueId product = e.b().Binary(Op::kMul, e.NumberOperand(3, e.out()), e.As(1, e.out()));
  return One(e.b().Binary(Op::kAdd, e.As(0, e.out()), e.b().Binary(Op::kDiv, product, e.As(2, e.out()))));
}

EmitResults Lerp(Emitter& e) {
  at::ScalarType type = e.out();
  if (!c10::isFloatingType(type)) return One(e.Fail());
  ValueId start = e.As(0, type), end = e.As(1, type), weight = e.As(e.Get(2), type, /*exact_number=*/true);
  ValueId span = e.b().Binary(Op::kSub, end, start);
  ValueId forward = e.b().Binary(Op::kAdd, start, e.b().Binary(Op::kMul, weight, span));
  ValueId rest = e.b().Binary(Op::kSub, e.Number(1, type), weight);
  ValueId backward = e.b().Binary(Op::kSub, end, e.b().Binary(Op::kMul, span, rest));
  ValueId small = e.b().Binary(Op::kLt, e.b().Unary(Op::kAbs, weight), e.Number(0.5, type));
  return One(e.b().Select(small, forward, backward));
}

// Copies and casts: operand 0 in the dtype of the result.
EmitResults Copy(Emitter& e) { return One(e.As(0, e.out())); }
EmitResults CopySource(Emitter& e) { return One(e.As(1, e.out())); }

EmitResults Zeros(Emitter& e) { return One(e.Number(0, e.out())); }
EmitResults Ones(Emitter& e) { return One(e.Number(1, e.out())); }
EmitResults FillFirst(Emitter& e) { return One(e.As(0, e.out())); }
EmitResults FillSecond(Emitter& e) { return One(e.As(1, e.out())); }
EmitResults FillThird(Emitter& e) { return One(e.As(2, e.out())); }

ValueId IntegerRange(Emitter& e, int64_t start, int64_t step) {
  if (e.out() != at::ScalarType::Long) return e.Fail();
  ValueId scaled = e.b().Binary(Op::kMul, e.Index(0), e.b().ConstInt(loop::DType::kInt64, step));
  return e.b().Binary(Op::kAdd, scaled, e.b().ConstInt(loop::DType::kInt64, start));
}
// tril and triu: what lies on one side of a diagonal, zero elsewhere.
template <Op kept>
EmitResults Triangle(Emitter& e) {
  const c10::DimVector& sizes = e.operand_meta(0).sizes;
  const int64_t rank = static_cast<int64_t>(sizes.size());
  if (rank < 2 || sizes[sizes.size() - 1] >= INT32_MAX || sizes[sizes.size() - 2] >= INT32_MAX) return {e.Fail()};
  const auto position = [&](int64_t dim) { return e.b().Cast(loop::DType::kInt32, e.Index(dim)); };
  const int64_t diagonal = std::clamp<int64_t>(e.constant(1).toInt(), -INT32_MAX / 2, INT32_MAX / 2);
  const ValueId distance = e.b().Binary(Op::kSub, position(rank - 1), position(rank - 2));
  const ValueId inside = e.b().Binary(kept, distance, e.b().ConstInt(loop::DType::kInt32, diagonal));
  const ValueId x = e.As(0, e.out());
  const loop::DType type = e.b().dtype_of(x);
  const ValueId zero = loop::IsFloat(type) ? e.b().Const(type, 0) : e.b().ConstInt(type, 0);
  return One(e.b().Select(inside, x, zero));
}

// xlogy(x, y): x log(y), 0 where x is 0, NaN where y is. Eager rounds log(y) to a narrow type.
EmitResults XLogY(Emitter& e) {
  const at::ScalarType type = e.out();
  if (type != at::ScalarType::Float && type != at::ScalarType::Double) return One(e.Fail());
  const ValueId x = e.As(0, type), y = e.As(1, type), zero = e.Number(0, type);
  const ValueId product = e.b().Binary(Op::kMul, x, e.b().Unary(Op::kLog, y));
  const ValueId kept = e.b().Select(e.b().Binary(Op::kEq, x, zero), zero, product);
  return One(e.b().Select(e.b().Binary(Op::kNe, y, y), y, kept));
}

EmitResults Arange(Emitter& e) { return One(IntegerRange(e, 0, 1)); }
EmitResults ArangeStart(Emitter& e) {
  return One(e.constant(0).isInt() ? IntegerRange(e, e.constant(0).toInt(), 1) : e.Fail());
}
EmitResults ArangeStep(Emitter& e) {
  if (!e.constant(0).isInt() || !e.constant(2).isInt()) return One(e.Fail());
  return One(IntegerRange(e, e.constant(0).toInt(), e.constant(2).toInt()));
}

constexpr EmitRule P(EmitResults (*emit)(Emitter&)) { return {NodeKind::kPointwise, emit}; }
constexpr EmitRule E(EmitResults (*emit)(Emitter&)) { return AsExact(P(emit)); }

const NamedRule kRules[] = {
    {"aten::exp", P(FloatUnary<Op::kExp>)},
    {"aten::exp2", P(FloatUnary<Op::kExp2>)},
    {"aten::expm1", P(FloatUnary<Op::kExpm1>)},
    {"aten::log", P(FloatUnary<Op::kLog>)},
    {"aten::log2", P(FloatUnary<Op::kLog2>)},
    {"aten::log10", P(FloatUnary<Op::kLog10>)},
    {"aten::log1p", P(FloatUnary<Op::kLog1p>)},
    {"aten::sqrt", P(FloatUnary<Op::kSqrt>)},
    {"aten::rsqrt", E(Rsqrt)},
    {"aten::reciprocal", E(FloatUnary<Op::kReciprocal>)},
    {"aten::sin", P(FloatUnary<Op::kSin>)},
    {"aten::cos", P(FloatUnary<Op::kCos>)},
    {"aten::tan", P(FloatUnary<Op::kTan>)},
    {"aten::asin", P(FloatUnary<Op::kAsin>)},
    {"aten::acos", P(FloatUnary<Op::kAcos>)},
    {"aten::atan", P(FloatUnary<Op::kAtan>)},
    {"aten::sinh", P(FloatUnary<Op::kSinh>)},
    {"aten::cosh", P(FloatUnary<Op::kCosh>)},
    {"aten::tanh", P(FloatUnary<Op::kTanh>)},
    {"aten::erf", P(FloatUnary<Op::kErf>)},
    {"aten::erfc", P(FloatUnary<Op::kErfc>)},
    {"aten::sigmoid", P(FloatUnary<Op::kSigmoid>)},
    {"aten::floor", E(Rounding<Op::kFloor>)},
    {"aten::ceil", E(Rounding<Op::kCeil>)},
    {"aten::round", E(Rounding<Op::kRound>)},
    {"aten::trunc", E(Rounding<Op::kTrunc>)},
    {"aten::neg", E(SignedUnary<Op::kNeg>)},
    {"aten::abs", E(SignedUnary<Op::kAbs>)},
    {"aten::sign", E(Sign)},
    {"aten::add.Tensor", E(Add)},
    {"aten::add.Scalar", E(Add)},
    {"aten::sub.Tensor", E(Sub)},
    {"aten::sub.Scalar", E(Sub)},
    {"aten::rsub.Tensor", E(Rsub)},
    {"aten::rsub.Scalar", E(Rsub)},
    {"aten::mul.Tensor", E(Mul)},
    {"aten::mul.Scalar", E(Mul)},
    {"aten::div.Tensor", E(Div)},
    {"aten::div.Scalar", E(Div)},
    {"aten::atan2", P(FloatBinary<Op::kAtan2>)},
    {"aten::fmod.Tensor", P(FloatBinary<Op::kFmod>)},
    {"aten::fmod.Scalar", P(FloatBinary<Op::kFmod>)},
    {"aten::maximum", E(MinMax<Op::kMax>)},
    {"aten::minimum", E(MinMax<Op::kMin>)},
    {"aten::pow.Tensor_Scalar", E(PowScalarExponent)},
    {"aten::pow.Tensor_Tensor", P(FloatBinary<Op::kPow>)},
    {"aten::pow.Scalar", P(FloatBinary<Op::kPow>)},
    {"aten::eq.Tensor", E(Compare<Op::kEq>)},
    {"aten::eq.Scalar", E(Compare<Op::kEq>)},
    {"aten::ne.Tensor", E(Compare<Op::kNe>)},
    {"aten::ne.Scalar", E(Compare<Op::kNe>)},
    {"aten::lt.Tensor", E(Compare<Op::kLt>)},
    {"aten::lt.Scalar", E(Compare<Op::kLt>)},
    {"aten::le.Tensor", E(Compare<Op::kLe>)},
    {"aten::le.Scalar", E(Compare<Op::kLe>)},
    {"aten::gt.Tensor", E(Compare<Op::kGt>)},
    {"aten::gt.Scalar", E(Compare<Op::kGt>)},
    {"aten::ge.Tensor", E(Compare<Op::kGe>)},
    {"aten::ge.Scalar", E(Compare<Op::kGe>)},
    {"aten::bitwise_and.Tensor", E(Bitwise<Op::kAnd>)},
    {"aten::bitwise_and.Scalar", E(Bitwise<Op::kAnd>)},
    {"aten::bitwise_or.Tensor", E(Bitwise<Op::kOr>)},
    {"aten::bitwise_or.Scalar", E(Bitwise<Op::kOr>)},
    {"aten::bitwise_xor.Tensor", E(Bitwise<Op::kXor>)},
    {"aten::bitwise_xor.Scalar", E(Bitwise<Op::kXor>)},
    {"aten::bitwise_not", E(BitwiseNot)},
    {"aten::logical_and", E(Logical<Op::kAnd>)},
    {"aten::logical_or", E(Logical<Op::kOr>)},
    {"aten::logical_xor", E(Logical<Op::kXor>)},
    {"aten::logical_not", E(LogicalNot)},
    {"aten::isnan", E(IsNan)},
    {"aten::where.self", E(Where)},
    {"aten::masked_fill.Scalar", E(MaskedFill)},
    {"aten::masked_fill.Tensor", E(MaskedFill)},
    {"aten::clamp", E(Clamp)},
    {"aten::clamp.Tensor", E(Clamp)},
    {"aten::clamp_min", E(ClampOne<Op::kMax>)},
    {"aten::clamp_min.Tensor", E(ClampOne<Op::kMax>)},
    {"aten::clamp_max", E(ClampOne<Op::kMin>)},
    {"aten::clamp_max.Tensor", E(ClampOne<Op::kMin>)},
    {"aten::addcmul", P(AddcMul)},
    {"aten::addcdiv", P(AddcDiv)},
    {"aten::lerp.Scalar", P(Lerp)},
    {"aten::lerp.Tensor", P(Lerp)},
    {"aten::clone", E(Copy)},
    {"aten::_to_copy", E(Copy)},
    {"aten::copy", E(CopySource)},
    {"aten::zeros", E(Zeros)},
    {"aten::zeros_like", E(Zeros)},
    {"aten::new_zeros", E(Zeros)},
    {"aten::ones", E(Ones)},
    {"aten::ones_like", E(Ones)},
    {"aten::new_ones", E(Ones)},
    {"aten::scalar_tensor", E(FillFirst)},
    {"aten::full", E(FillSecond)},
    {"aten::full_like", E(FillSecond)},
    {"aten::fill.Scalar", E(FillSecond)},
    {"aten::new_full", E(FillThird)},
    {"aten::tril", E(Triangle<Op::kLe>)},
    {"aten::triu", E(Triangle<Op::kGe>)},
    {"aten::xlogy.Tensor", P(XLogY)},
    {"aten::arange", E(Arange)},
    {"aten::arange.start", E(ArangeStart)},
    {"aten::arange.start_step", E(ArangeStep)},
};

std::array<c10::ArrayRef<NamedRule>, 4> Parts() {
  return {PointwiseRules(), ActivationRules(), RowRules(), GradientRules()};
}

const OperatorTable<const EmitRule*>& Rules() {
  static const auto* rules = [] {
    auto* table = new OperatorTable<const EmitRule*>;
    for (auto part : Parts()) {
      for (const NamedRule& named : part) table->Add(named.name, &named.rule);
    }
    return table;
  }();
  return *rules;
}

}  // namespace

c10::ArrayRef<NamedRule> PointwiseRules() { return kRules; }

const EmitRule* FindEmitRule(const c10::OperatorHandle& op) {
  const EmitRule* const* rule = Rules().Find(op);
  return rule == nullptr ? nullptr : *rule;
}

std::vector<std::string> InexactOperators() {
  std::vector<std::string> names;
  for (auto part : Parts()) {
    for (const NamedRule& named : part) {
      if (named.rule.exact != Exact::kAlways) names.emplace_back(named.name);
    }
  }
  return names;
}

}  // namespace framejit::native
