// Casts between register types, and the rounding and wrapping to narrow types. See value.h for how those are held.
#include "backends/cpu/codegen/operators.h"

namespace framejit::cpu {
namespace {

using loop::DType;

Value One(const Reg& r) { return Value{{r, r}}; }

}  // namespace

Value Operators::Cast(DType from, DType to, const Value& value, const Rounding& rounding) {
  if (to == DType::kBool) return ToBool(from, value);
  const DType from_register = RegisterType(from), to_register = RegisterType(to);
  const Value converted = ConvertRegisters(from_register, to_register, value);
  if (to == to_register || from == to) return converted;
  const Reg r = First(converted, 0);
  if (ClassOf(to) == loop::DTypeClass::kNarrowFloat) {
    // Storing a float16 rounds.
    const bool stored = to == DType::kFloat16 && rounding.kind == Rounding::Kind::kStored;
    if (stored || rounding.kind == Rounding::Kind::kNone) return One(r);
    return One(to == DType::kFloat16 ? RoundToFloat16(r) : RoundToBFloat16(r, rounding));
  }
  return One(WrapNarrow(to, r));
}

Value Operators::ToBool(DType from, const Value& value) {
  const DType type = RegisterType(from);
  if (type == DType::kBool) return value;
  loop::Node zero{Op::kConst, type};
  const Value operands[2] = {value, Constant(zero)};
  return Compare(Op::kNe, type, operands);
}

Value Operators::ConvertRegisters(DType from, DType to, const Value& value) {
  if (from == to) return Materialize(from, value);
  if (const LaneFunction function = s.wide ? nullptr : FindLaneConversion(from, to)) {
    return CallLanes(function, from, to, value, nullptr);
  }
  switch (from) {
    case DType::kBool: {
      const Value number = One(s.And(First(value, 0), s.Splat32(1)));
      return to == DType::kInt32 ? number : FromInt32(to, number);
    }
    case DType::kInt32:
      return FromInt32(to, value);
    case DType::kInt64:
      return FromInt64(to, value);
    case DType::kFloat32:
      return FromFloat32(to, value);
    case DType::kFloat64:
      return FromFloat64(to, value);
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kInt16:
    case DType::kFloat16:
    case DType::kBFloat16:
      break;
  }
  return value;
}

Value Operators::FromInt32(DType to, const Value& value) {
  const Reg a = First(value, 0);
  Value out;
  if (to == DType::kFloat32) return One(s.Op1(Inst::kIdVcvtdq2ps, a));
  if (to == DType::kInt64) {
    s.Widen(a, out.r);
    return out;
  }
  out.r[0] = s.Op1(Inst::kIdVcvtdq2pd, s.Half(a));
  out.r[1] = s.Op1(Inst::kIdVcvtdq2pd, s.HighHalf(a));
  return out;
}

Value Operators::FromInt64(DType to, const Value& value) {
  const Reg both[2] = {First(value, 0), First(value, 1)};
  if (to == DType::kInt32) return One(s.Narrow(both));
  // AVX-512 from here; AVX2 has lane conversions.
  if (to == DType::kFloat64) return Value{{s.Op1(Inst::kIdVcvtqq2pd, both[0]), s.Op1(Inst::kIdVcvtqq2pd, both[1])}};
  Reg half[2] = {s.New(), s.New()};
  for (int i = 0; i < 2; ++i) s.cc.emit(Inst::kIdVcvtqq2ps, s.Half(half[i]), both[i]);
  return One(s.Join(s.Half(half[0]), s.Half(half[1])));
}

Value Operators::FromFloat32(DType to, const Value& value) {
  const Reg a = First(value, 0);
  if (to == DType::kInt32) return One(s.Op1(Inst::kIdVcvttps2dq, a));
  const InstId inst = to == DType::kFloat64 ? Inst::kIdVcvtps2pd : Inst::kIdVcvttps2qq;
  return Value{{s.Op1(inst, s.Half(a)), s.Op1(inst, s.HighHalf(a))}};
}

Value Operators::FromFloat64(DType to, const Value& value) {
  if (to == DType::kInt64) {
    return Value{{s.Op1(Inst::kIdVcvttpd2qq, First(value, 0)), s.Op1(Inst::kIdVcvttpd2qq, First(value, 1))}};
  }
  const InstId inst = to == DType::kFloat32 ? Inst::kIdVcvtpd2ps : Inst::kIdVcvttpd2dq;
  Reg half[2] = {s.New(), s.New()};
  for (int i = 0; i < 2; ++i) s.cc.emit(inst, s.Half(half[i]), First(value, i));
  return One(s.Join(s.Half(half[0]), s.Half(half[1])));
}

Reg Operators::WrapNarrow(DType to, const Reg& value) {
  if (to == DType::kUInt8) return s.And(value, s.Splat32(0xff));
  const int bits = to == DType::kInt8 ? 24 : 16;
  return s.Shift(Inst::kIdVpsrad, s.Shift(Inst::kIdVpslld, value, bits), bits);
}

// Adds half of the last kept place, less one when the kept part is even, and cuts. A NaN whose lower half is not zero
// could become a number by that, so that such ones are made quiet ones without anything there, first or last.
Reg Operators::RoundToBFloat16(const Reg& value, const Rounding& rounding) {
  Reg number = value;
  if (s.wide && !rounding.short_nans) {
    number = s.Copy(value);
    constexpr int kQuietNaN = 3;  // of vfixupimm: what NaN, of the first two classes, becomes; others stay
    s.cc.emit(Inst::kIdVfixupimmps, number, value, s.Splat32(kQuietNaN | kQuietNaN << 4), Imm(0));
  }
  Reg biased;
  if (s.vnni) {
    // One product of pairs adds both: (1, odd) times (0x7fff, 1).
    const Reg pair = s.Copy(number);
    constexpr int kAndOr = 0xea;  // a & b | c
    s.cc.emit(Inst::kIdVpternlogd, pair, s.Load(s.Splat32(0x10000)), s.Splat32(1), Imm(kAndOr));
    biased = s.Copy(number);
    s.cc.emit(Inst::kIdVpdpwssd, biased, pair, s.Splat32(0x17fff));
  } else {
    const Reg odd = s.And(s.Shift(Inst::kIdVpsrld, number, 16), s.Splat32(1));
    biased = s.Op2(Inst::kIdVpaddd, s.Op2(Inst::kIdVpaddd, number, s.Splat32(0x7fff)), odd);
  }
  const bool cuts_later = rounding.kind == Rounding::Kind::kStored;
  const Reg cut = cuts_later ? biased : s.And(biased, s.Splat32(0xffff0000u));
  if (s.wide || rounding.short_nans) return cut;
  return s.SelectF32(value, value, kUnordered, s.Load(s.Splat32(0x7fc00000u)), cut);
}

Reg Operators::RoundToFloat16(const Reg& value) {
  Reg half = s.New();
  s.cc.emit(Inst::kIdVcvtps2ph, s.Half(half), value, Imm(0));
  return s.Op1(Inst::kIdVcvtph2ps, s.Half(half));
}

}  // namespace framejit::cpu
