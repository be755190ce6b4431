// See simd.h.
#include "backends/cpu/codegen/simd.h"

#include <bit>

namespace framejit::cpu {

Mem Simd::Splat32(uint32_t bits) { return Splat64(bits | static_cast<uint64_t>(bits) << 32); }

Mem Simd::Splat64(uint64_t bits) {
  const uint64_t data[8] = {bits, bits, bits, bits, bits, bits, bits, bits};
  Mem m = cc.newConst(asmjit::ConstPoolScope::kLocal, data, vector_bytes());
  m.setSize(vector_bytes());
  return m;
}

Mem Simd::F32(float value) { return Splat32(std::bit_cast<uint32_t>(value)); }
Mem Simd::F64(double value) { return Splat64(std::bit_cast<uint64_t>(value)); }
Reg Simd::Load(const Mem& m) { return Op1(Inst::kIdVmovups, m); }

Reg Simd::Zero() {
  Reg d = New();
  cc.emit(wide ? Inst::kIdVpxord : Inst::kIdVpxor, d, d, d);
  return d;
}

Reg Simd::Op1(InstId inst, const Operand& a) {
  Reg d = New();
  cc.emit(inst, d, a);
  return d;
}

Reg Simd::Op2(InstId inst, const Reg& a, const Operand& b) {
  Reg d = New();
  cc.emit(inst, d, a, b);
  return d;
}

Reg Simd::Shift(InstId inst, const Reg& a, int count) {
  Reg d = New();
  cc.emit(inst, d, a, Imm(count));
  return d;
}

Reg Simd::Copy(const Reg& a) { return Op1(Inst::kIdVmovaps, a); }

Reg Simd::Round32(const Reg& a, int mode) {
  return Shift(wide ? Inst::kIdVrndscaleps : Inst::kIdVroundps, a, mode | 8);
}

Reg Simd::Round64(const Reg& a, int mode) {
  return Shift(wide ? Inst::kIdVrndscalepd : Inst::kIdVroundpd, a, mode | 8);
}

Reg Simd::CompareF32(const Reg& a, const Operand& b, int code) {
  Reg d = New();
  if (!wide) {
    cc.emit(Inst::kIdVcmpps, d, a, b, Imm(code));
    return d;
  }
  cc.vpmovm2d(d, CompareBits(a, b, code));
  return d;
}

x86::KReg Simd::CompareBits(const Reg& a, const Operand& b, int code) {
  x86::KReg k = cc.newKw();
  cc.emit(Inst::kIdVcmpps, k, a, b, Imm(code));
  return k;
}

Reg Simd::KeepF32(const Reg& a, const Operand& b, int code, const Reg& value) {
  if (!wide) return And(CompareF32(a, b, code), value);
  Reg d = New();
  cc.k(CompareBits(a, b, code)).z().emit(Inst::kIdVmovaps, d, value);
  return d;
}

// The register allocator takes any masked operation to read its result, so that a blend into a new register would load
// one that was never written; a copy costs no more than its decoding.
Reg Simd::MergeF32(const x86::KReg& k, const Operand& on_true, const Reg& on_false) {
  Reg d = Copy(on_false);
  cc.k(k).emit(Inst::kIdVmovaps, d, on_true);
  return d;
}

Reg Simd::SelectF32(const Reg& a, const Operand& b, int code, const Operand& on_true, const Reg& on_false) {
  if (wide) return MergeF32(CompareBits(a, b, code), on_true, on_false);
  Reg d = New();
  cc.emit(Inst::kIdVblendvps, d, on_false, on_true, CompareF32(a, b, code));
  return d;
}

Reg Simd::CompareF64(const Reg& a, const Operand& b, int code) {
  Reg d = New();
  if (!wide) {
    cc.emit(Inst::kIdVcmppd, d, a, b, Imm(code));
    return d;
  }
  x86::KReg k = cc.newKb();
  cc.emit(Inst::kIdVcmppd, k, a, b, Imm(code));
  cc.vpmovm2q(d, k);
  return d;
}

Reg Simd::CompareI32(const Reg& a, const Operand& b, int code) {
  const InstId inst = code == kEqual ? Inst::kIdVpcmpeqd : Inst::kIdVpcmpgtd;
  if (!wide) return Op2(inst, a, b);
  Reg d = New();
  x86::KReg k = cc.newKw();
  cc.emit(inst, k, a, b);
  cc.vpmovm2d(d, k);
  return d;
}

Reg Simd::CompareI64(const Reg& a, const Operand& b, int code) {
  const InstId inst = code == kEqual ? Inst::kIdVpcmpeqq : Inst::kIdVpcmpgtq;
  if (!wide) return Op2(inst, a, b);
  Reg d = New();
  x86::KReg k = cc.newKb();
  cc.emit(inst, k, a, b);
  cc.vpmovm2q(d, k);
  return d;
}

x86::KReg Simd::MaskBits(const Reg& mask32) {
  x86::KReg k = cc.newKw();
  cc.vpmovd2m(k, mask32);
  return k;
}

Reg Simd::Blend32(const Reg& mask, const Reg& on_true, const Reg& on_false) {
  if (wide) return MergeF32(MaskBits(mask), on_true, on_false);
  Reg d = New();
  cc.emit(Inst::kIdVblendvps, d, on_false, on_true, mask);
  return d;
}

Reg Simd::Blend64(const Reg& mask, const Reg& on_true, const Reg& on_false) {
  if (wide) {
    Reg d = Copy(on_false);
    x86::KReg k = cc.newKb();
    cc.vpmovq2m(k, mask);
    cc.k(k).emit(Inst::kIdVmovapd, d, on_true);
    return d;
  }
  Reg d = New();
  cc.emit(Inst::kIdVblendvpd, d, on_false, on_true, mask);
  return d;
}

Reg Simd::HighHalf(const Reg& a) {
  Reg d = New();
  cc.emit(wide ? Inst::kIdVextracti64x4 : Inst::kIdVextracti128, Half(d), a, Imm(1));
  return Half(d);
}

Reg Simd::Join(const Reg& low_half, const Reg& high_half) {
  Reg d = New();
  const Reg low = wide ? static_cast<Reg>(low_half.zmm()) : static_cast<Reg>(low_half.ymm());
  cc.emit(wide ? Inst::kIdVinserti64x4 : Inst::kIdVinserti128, d, low, high_half, Imm(1));
  return d;
}

void Simd::Widen(const Reg& a, Reg out[2]) {
  out[0] = Op1(Inst::kIdVpmovsxdq, Half(a));
  out[1] = Op1(Inst::kIdVpmovsxdq, HighHalf(a));
}

Reg Simd::Narrow(const Reg a[2]) {
  if (wide) {
    Reg low = New(), high = New();
    cc.emit(Inst::kIdVpmovqd, Half(low), a[0]);
    cc.emit(Inst::kIdVpmovqd, Half(high), a[1]);
    return Join(Half(low), Half(high));
  }
  Reg mixed = New(), d = New();
  cc.emit(Inst::kIdVshufps, mixed, a[0], a[1], Imm(0x88));  // a0.l a1.l | a0.h a1.h
  cc.emit(Inst::kIdVpermq, d, mixed, Imm(0xd8));
  return d;
}

}  // namespace framejit::cpu
