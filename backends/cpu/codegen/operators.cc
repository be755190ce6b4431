// See operators.h. Arithmetic rounds after every operation as eager does; only the functions of math.cc contract.
#include "backends/cpu/codegen/operators.h"

#include <bit>
#include <cmath>
#include <limits>

#include "backends/cpu/codegen/math.h"
#include "backends/cpu/codegen/vector_functions.h"

namespace framejit::cpu {
namespace {

using loop::DType;
using loop::Op;

Value One(const Reg& r) { return Value{{r, r}}; }

int CompareCodeOf(Op op) {
  switch (op) {
    case Op::kEq:
      return kEqual;
    case Op::kNe:
      return kNotEqual;
    case Op::kLt:
      return kLess;
    case Op::kLe:
      return kLessEqual;
    case Op::kGt:
      return kGreater;
    default:
      return kGreaterEqual;
  }
}

}  // namespace

Value Operators::Constant(const loop::Node& node) {
  Value value;
  value.is_constant = true;
  switch (node.dtype) {
    case DType::kBool:
      value.constant = s.Splat32(node.int_value ? ~0u : 0);
      break;
    case DType::kInt64:
      value.constant = s.Splat64(static_cast<uint64_t>(node.int_value));
      break;
    case DType::kFloat64:
      value.constant = s.F64(node.float_value);
      value.is_number = !std::isnan(node.float_value);
      break;
    case DType::kFloat32:
      value.constant = s.F32(static_cast<float>(node.float_value));
      value.is_number = !std::isnan(node.float_value);
      break;
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kFloat16:
    case DType::kBFloat16:
      value.constant = s.Splat32(static_cast<uint32_t>(node.int_value));
      break;
  }
  return value;
}

Reg Operators::First(const Value& value, int i) { return value.is_constant ? s.Load(value.constant) : value.r[i]; }

Value Operators::Materialize(DType dtype, const Value& value) {
  if (!value.is_constant) return value;
  return One(s.Load(value.constant));
}

Mem Operators::Slot(int index) {
  if (!has_slot_[index]) slots_[index] = s.cc.newStack(2 * s.vector_bytes(), 64);
  has_slot_[index] = true;
  return slots_[index];
}

void Operators::Spill(DType dtype, const Value& value, const Mem& slot) {
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    s.cc.emit(Inst::kIdVmovups, slot.cloneAdjusted(i * s.vector_bytes()), First(value, i));
  }
}

// SLEEF's where it is in the process, else the C library's lane by lane.
Value Operators::Call(Op op, DType dtype, const Value* v) {
  const int operands = loop::OperandCount(op);
  const void* function = FindVectorFunction(op, dtype, s.wide);
  if (function == nullptr) {
    return CallLanes(FindLaneFunction(op, dtype), dtype, dtype, v[0], operands == 2 ? &v[1] : nullptr);
  }
  using asmjit::TypeId;
  const TypeId type = dtype == DType::kFloat64 ? (s.wide ? TypeId::kFloat64x8 : TypeId::kFloat64x4)
                                               : (s.wide ? TypeId::kFloat32x16 : TypeId::kFloat32x8);
  asmjit::FuncSignatureBuilder signature(asmjit::CallConvId::kCDecl);
  signature.setRet(type);
  for (int i = 0; i < operands; ++i) signature.addArg(type);
  Value out;
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    out.r[i] = s.New();
    Reg arguments[2];  // constants are loaded in front of the call
    for (int operand = 0; operand < operands; ++operand) arguments[operand] = First(v[operand], i);
    asmjit::InvokeNode* call = nullptr;
    s.cc.invoke(&call, reinterpret_cast<uint64_t>(function), signature);
    if (call == nullptr) continue;  // the compiler keeps the error
    for (int operand = 0; operand < operands; ++operand) call->setArg(operand, arguments[operand]);
    call->setRet(0, out.r[i]);
  }
  return out;
}

Value Operators::CallLanes(LaneFunction function, DType from, DType to, const Value& x, const Value* y) {
  const Mem slot_x = Slot(0), slot_y = Slot(1);
  Spill(from, x, slot_x);
  if (y != nullptr) Spill(from, *y, slot_y);
  Gp pointer_x = s.cc.newIntPtr(), pointer_y = s.cc.newIntPtr(), lanes = s.cc.newInt64();
  s.cc.lea(pointer_x, slot_x);
  s.cc.lea(pointer_y, slot_y);
  s.cc.mov(lanes, s.lanes);
  asmjit::InvokeNode* call = nullptr;
  const auto address = reinterpret_cast<uint64_t>(function);
  s.cc.invoke(&call, address, asmjit::FuncSignatureT<void, void*, const void*, int64_t>(asmjit::CallConvId::kCDecl));
  if (call != nullptr) {
    call->setArg(0, pointer_x);
    call->setArg(1, pointer_y);
    call->setArg(2, lanes);
  }
  Value result;
  for (int i = 0; i < RegisterCount(to); ++i) {
    result.r[i] = s.Op1(Inst::kIdVmovups, slot_x.cloneAdjusted(i * s.vector_bytes()));
  }
  return result;
}

// minps and maxps return their second operand when one is NaN: right unless only the first is.
Value Operators::MinMaxFloat(InstId inst, DType dtype, const Value* v) {
  Value out;
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    const Reg a = First(v[0], i);
    const Reg best = s.Op2(inst, a, v[1].Source(i));
    if (v[0].is_number)
      out.r[i] = best;
    else if (dtype == DType::kFloat64)
      out.r[i] = s.Blend64(s.CompareF64(a, a, kUnordered), a, best);
    else
      out.r[i] = s.SelectF32(a, a, kUnordered, a, best);
  }
  return out;
}

// The exact vector sequence where all lanes are small enough, the C library otherwise (huge angles and infinities).
Value Operators::SinCos(Op op, const Value& value) {
  const Reg x = First(value, 0);
  const Reg result = EmitSinCos(s, x, op == Op::kCos);
  const Reg huge = s.CompareF32(s.And(x, s.Splat32(0x7fffffffu)), s.F32(kSinCosLimit), kGreater);
  const Label done = s.cc.newLabel();
  Gp any = s.cc.newInt32();
  if (s.wide)
    s.cc.kmovw(any, s.MaskBits(huge));
  else
    s.cc.emit(Inst::kIdVmovmskps, any, huge);
  s.cc.test(any, any);
  s.cc.jz(done);
  const Value called =
      CallLanes(FindLaneFunction(op, DType::kFloat32), DType::kFloat32, DType::kFloat32, One(x), nullptr);
  s.cc.emit(Inst::kIdVmovaps, result, called.r[0]);
  s.cc.bind(done);
  return One(result);
}

Value Operators::Float32(Op op, const Value* v) {
  if (op == Op::kMin) return MinMaxFloat(Inst::kIdVminps, DType::kFloat32, v);
  if (op == Op::kMax) return MinMaxFloat(Inst::kIdVmaxps, DType::kFloat32, v);
  const Reg a = First(v[0], 0);
  const Operand b = v[1].Source(0);
  switch (op) {
    case Op::kAdd:
      return One(s.Add(a, b));
    case Op::kSub:
      return One(s.Sub(a, b));
    case Op::kMul:
      return One(s.Mul(a, b));
    case Op::kDiv:
      return One(s.Div(a, b));
    case Op::kNeg:
      return One(s.Xor(a, s.Splat32(0x80000000u)));
    case Op::kAbs:
      return One(s.And(a, s.Splat32(0x7fffffffu)));
    case Op::kSqrt:
      return One(s.Op1(Inst::kIdVsqrtps, a));
    case Op::kRsqrt:
      return One(s.Div(s.Load(s.F32(1.0f)), s.Op1(Inst::kIdVsqrtps, a)));
    case Op::kReciprocal:
      return One(s.Div(s.Load(s.F32(1.0f)), a));
    case Op::kRound:
      return One(s.Round32(a, 0));
    case Op::kFloor:
      return One(s.Round32(a, 1));
    case Op::kCeil:
      return One(s.Round32(a, 2));
    case Op::kTrunc:
      return One(s.Round32(a, 3));
    case Op::kExp:
      return One(EmitExp(s, a));
    case Op::kExpm1:
      return One(EmitExpm1(s, a));
    case Op::kExp2:
      return One(EmitExp2(s, a));
    case Op::kLog:
      return One(EmitLog(s, a));
    case Op::kLog2:
      return One(EmitLog2(s, a));
    case Op::kLog10:
      return One(EmitLog10(s, a));
    case Op::kLog1p:
      return One(EmitLog1p(s, a));
    case Op::kTanh:
      return One(EmitTanh(s, a));
    case Op::kSigmoid:
      return One(EmitSigmoid(s, a));
    case Op::kErf:
      return One(EmitErf(s, a));
    case Op::kGelu:
      return One(EmitGelu(s, a));
    case Op::kNormalCdf:
      return One(EmitNormalCdf(s, a));
    case Op::kExpNonPositive:
      return One(EmitExpNonPositive(s, a));
    case Op::kSin:
    case Op::kCos:
      return SinCos(op, v[0]);
    default:
      return Call(op, DType::kFloat32, v);
  }
}

// The functions that SLEEF has by others, as eager mode computes them; nothing where it is not in the process.
Value Operators::Composed64(Op op, const Value* v) {
  const bool by_erf = op == Op::kGelu || op == Op::kNormalCdf;
  const auto binary = [&](Op arithmetic, const Value& a, const Value& b) {
    const Value operands[2] = {a, b};
    return Float64(arithmetic, operands);
  };
  const auto unary = [&](Op arithmetic, const Value& operand) {
    const Value operands[2] = {operand, {}};
    return Float64(arithmetic, operands);
  };
  const auto number = [&](double value) {
    loop::Node node{Op::kConst, DType::kFloat64};
    node.float_value = value;
    return Constant(node);
  };
  Value x = v[0];
  if (by_erf) {
    const Value scaled = binary(Op::kMul, x, number(M_SQRT1_2));
    const Value cdf = binary(Op::kAdd, Call(Op::kErf, DType::kFloat64, &scaled), number(1));
    const Value half = op == Op::kGelu ? binary(Op::kMul, x, number(0.5)) : Materialize(DType::kFloat64, number(0.5));
    return binary(Op::kMul, half, cdf);
  }
  x = op == Op::kSigmoid ? unary(Op::kNeg, x) : binary(Op::kMin, number(0), x);
  const Value e = Call(Op::kExp, DType::kFloat64, &x);
  return op == Op::kSigmoid ? unary(Op::kReciprocal, binary(Op::kAdd, e, number(1))) : e;
}

Value Operators::Float64(Op op, const Value* v) {
  const bool composed = op == Op::kGelu || op == Op::kNormalCdf || op == Op::kSigmoid || op == Op::kExpNonPositive;
  if (composed && FindVectorFunction(Op::kExp, DType::kFloat64, s.wide) != nullptr) return Composed64(op, v);
  if (FindLaneFunction(op, DType::kFloat64) != nullptr) return Call(op, DType::kFloat64, v);
  if (op == Op::kMin) return MinMaxFloat(Inst::kIdVminpd, DType::kFloat64, v);
  if (op == Op::kMax) return MinMaxFloat(Inst::kIdVmaxpd, DType::kFloat64, v);
  Value out;
  for (int i = 0; i < 2; ++i) {
    const Reg a = First(v[0], i);
    const Operand b = v[1].Source(i);
    switch (op) {
      case Op::kAdd:
        out.r[i] = s.Op2(Inst::kIdVaddpd, a, b);
        break;
      case Op::kSub:
        out.r[i] = s.Op2(Inst::kIdVsubpd, a, b);
        break;
      case Op::kMul:
        out.r[i] = s.Op2(Inst::kIdVmulpd, a, b);
        break;
      case Op::kDiv:
        out.r[i] = s.Op2(Inst::kIdVdivpd, a, b);
        break;
      case Op::kNeg:
        out.r[i] = s.Xor(a, s.Splat64(0x8000000000000000u));
        break;
      case Op::kAbs:
        out.r[i] = s.And(a, s.Splat64(0x7fffffffffffffffu));
        break;
      case Op::kSqrt:
        out.r[i] = s.Op1(Inst::kIdVsqrtpd, a);
        break;
      case Op::kRsqrt:
        out.r[i] = s.Op2(Inst::kIdVdivpd, s.Load(s.F64(1.0)), s.Op1(Inst::kIdVsqrtpd, a));
        break;
      case Op::kReciprocal:
        out.r[i] = s.Op2(Inst::kIdVdivpd, s.Load(s.F64(1.0)), a);
        break;
      case Op::kRound:
        out.r[i] = s.Round64(a, 0);
        break;
      case Op::kFloor:
        out.r[i] = s.Round64(a, 1);
        break;
      case Op::kCeil:
        out.r[i] = s.Round64(a, 2);
        break;
      default:
        out.r[i] = s.Round64(a, 3);
        break;  // trunc
    }
  }
  return out;
}

Reg Operators::MinMaxInt64(bool max, const Reg& a, const Reg& b) {
  if (s.wide) return s.Op2(max ? Inst::kIdVpmaxsq : Inst::kIdVpminsq, a, b);
  const Reg greater = s.CompareI64(a, b, kGreater);
  return max ? s.Blend64(greater, a, b) : s.Blend64(greater, b, a);
}

// a * b mod 2^64 = lo*lo + ((a.hi*b.lo + a.lo*b.hi) << 32).
Reg Operators::MultiplyInt64(const Reg& a, const Reg& b) {
  if (s.wide) return s.Op2(Inst::kIdVpmullq, a, b);
  const Reg cross = s.Op2(Inst::kIdVpaddq, s.Op2(Inst::kIdVpmuludq, s.Shift(Inst::kIdVpsrlq, a, 32), b),
                          s.Op2(Inst::kIdVpmuludq, a, s.Shift(Inst::kIdVpsrlq, b, 32)));
  return s.Op2(Inst::kIdVpaddq, s.Op2(Inst::kIdVpmuludq, a, b), s.Shift(Inst::kIdVpsllq, cross, 32));
}

Value Operators::Int(Op op, DType dtype, const Value* v) {
  const bool wide = dtype == DType::kInt64;
  Value out;
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    const Reg a = First(v[0], i);
    const Reg b = loop::OperandCount(op) == 2 ? First(v[1], i) : a;
    const InstId sub = wide ? Inst::kIdVpsubq : Inst::kIdVpsubd;
    switch (op) {
      case Op::kAdd:
        out.r[i] = s.Op2(wide ? Inst::kIdVpaddq : Inst::kIdVpaddd, a, b);
        break;
      case Op::kSub:
        out.r[i] = s.Op2(sub, a, b);
        break;
      case Op::kMul:
        out.r[i] = wide ? MultiplyInt64(a, b) : s.Op2(Inst::kIdVpmulld, a, b);
        break;
      case Op::kMin:
        out.r[i] = wide ? MinMaxInt64(false, a, b) : s.Op2(Inst::kIdVpminsd, a, b);
        break;
      case Op::kMax:
        out.r[i] = wide ? MinMaxInt64(true, a, b) : s.Op2(Inst::kIdVpmaxsd, a, b);
        break;
      case Op::kNeg:
        out.r[i] = s.Op2(sub, s.Zero(), a);
        break;
      default:  // abs
        out.r[i] = wide ? MinMaxInt64(true, a, s.Op2(sub, s.Zero(), a)) : s.Op1(Inst::kIdVpabsd, a);
        break;
    }
  }
  return out;
}

Value Operators::Bits(Op op, DType dtype, const Value* v) {
  Value out;
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    const Reg a = First(v[0], i);
    if (op == Op::kNot)
      out.r[i] = s.Xor(a, s.Splat32(~0u));
    else if (op == Op::kAnd)
      out.r[i] = s.And(a, v[1].Source(i));
    else if (op == Op::kOr)
      out.r[i] = s.Or(a, v[1].Source(i));
    else
      out.r[i] = s.Xor(a, v[1].Source(i));
  }
  return out;
}

Value Operators::Compare(Op op, DType dtype, const Value* v) {
  Reg mask[2];
  // Integers have equality and greater-than only: lt and ge compare the other way round, ne, le and ge negate.
  const bool swap = op == Op::kLt || op == Op::kGe;
  const bool negate = op == Op::kNe || op == Op::kLe || op == Op::kGe;
  const int integer_code = op == Op::kEq || op == Op::kNe ? kEqual : kGreater;
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    if (loop::IsFloat(dtype)) {
      const Reg a = First(v[0], i);
      mask[i] = dtype == DType::kFloat32 ? s.CompareF32(a, v[1].Source(i), CompareCodeOf(op))
                                         : s.CompareF64(a, v[1].Source(i), CompareCodeOf(op));
    } else {
      const Reg a = First(v[swap ? 1 : 0], i);
      const Operand b = v[swap ? 0 : 1].Source(i);
      mask[i] = dtype == DType::kInt32 ? s.CompareI32(a, b, integer_code) : s.CompareI64(a, b, integer_code);
    }
  }
  Reg narrow = Is64(dtype) ? s.Narrow(mask) : mask[0];
  if (!loop::IsFloat(dtype) && negate) narrow = s.Xor(narrow, s.Splat32(~0u));
  return One(narrow);
}

Value Operators::Select(DType dtype, const Value& mask, const Value& on_true, const Value& on_false) {
  const Reg condition = First(mask, 0);
  Value out;
  if (!Is64(dtype)) {
    out.r[0] = s.Blend32(condition, First(on_true, 0), First(on_false, 0));
    return out;
  }
  Reg wide[2];
  s.Widen(condition, wide);
  for (int i = 0; i < 2; ++i) out.r[i] = s.Blend64(wide[i], First(on_true, i), First(on_false, i));
  return out;
}

Value Operators::Apply(Op op, DType dtype, const Value* operands) {
  if (op == Op::kSelect) return Select(dtype, operands[0], operands[1], operands[2]);
  if (loop::IsComparison(op)) return Compare(op, dtype, operands);
  if (op == Op::kNot || op == Op::kAnd || op == Op::kOr || op == Op::kXor) return Bits(op, dtype, operands);
  if (dtype == DType::kFloat32) return Float32(op, operands);
  if (dtype == DType::kFloat64) return Float64(op, operands);
  return Int(op, dtype, operands);
}

Value Operators::ShortGelu(const Value& x) { return One(EmitShortGelu(s, First(x, 0))); }

namespace {

Op StepOf(Op reduction) {
  switch (reduction) {
    case Op::kReduceSum:
      return Op::kAdd;
    case Op::kReduceProd:
      return Op::kMul;
    case Op::kReduceMax:
      return Op::kMax;
    default:
      return Op::kMin;
  }
}

}  // namespace

Value Operators::Combine(Op reduction, DType dtype, const Value& element, const Value& accumulator) {
  const Value operands[2] = {element, accumulator};
  return Apply(StepOf(reduction), dtype, operands);
}

Value Operators::Identity(Op reduction, DType dtype) {
  loop::Node node{Op::kConst, dtype};
  const bool wide = dtype == DType::kInt64;
  if (reduction == Op::kReduceProd) {
    node.float_value = 1, node.int_value = 1;
  } else if (reduction == Op::kReduceMax) {
    node.float_value = -std::numeric_limits<double>::infinity();
    node.int_value = wide ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int32_t>::min();
  } else if (reduction == Op::kReduceMin) {
    node.float_value = std::numeric_limits<double>::infinity();
    node.int_value = wide ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int32_t>::max();
  }
  return Constant(node);
}

// Halves, quarters, ... swapped and combined: every lane ends with the result, so it is a row value at once.
Value Operators::CombineLanes(Op reduction, DType dtype, const Value& accumulator) {
  Reg all = First(accumulator, 0);
  // Only register 0 counts from here: both of a Value carry it.
  const auto combine = [&](const Reg& a, const Reg& b) { return Combine(reduction, dtype, One(a), One(b)).r[0]; };
  if (Is64(dtype)) all = combine(all, First(accumulator, 1));
  const auto swap = [&](InstId inst, int control) {
    Reg other = s.New();
    s.cc.emit(inst, other, all, all, Imm(control));
    all = combine(other, all);
  };
  if (s.wide) {
    swap(Inst::kIdVshuff32x4, 0x4e);
    swap(Inst::kIdVshuff32x4, 0xb1);
  } else {
    swap(Inst::kIdVperm2f128, 1);
  }
  swap(Inst::kIdVshufps, 0x4e);
  if (!Is64(dtype)) swap(Inst::kIdVshufps, 0xb1);
  return One(all);
}

}  // namespace framejit::cpu
