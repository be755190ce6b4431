// A thin layer over asmjit's compiler: full-width vector operations whose spelling differs between AVX2 and AVX-512.
// Masks are vectors of all-ones / all-zeros lanes on both, so that everything above this layer is written once.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_SIMD_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_SIMD_H_

#include <asmjit/x86.h>

#include <cstdint>

#include "backends/cpu/codegen/kernel_compiler.h"

namespace framejit::cpu {

namespace x86 = asmjit::x86;
using x86::Gp;
using x86::Mem;
using Reg = x86::Vec;
namespace Inst = x86::Inst;
using asmjit::Imm;
using asmjit::InstId;
using asmjit::Label;
using asmjit::Operand;

// Predicates of vcmpps/vcmppd; on integers only equality and greater-than exist.
enum CompareCode : int {
  kEqual = 0,
  kLess = 17,
  kLessEqual = 18,
  kUnordered = 3,
  kNotEqual = 4,
  kNotLess = 21,  // true of NaN
  kGreaterEqual = 29,
  kGreater = 30
};

// 32-bit lanes of a register.
inline int LanesOf(Isa isa) { return isa == Isa::kAvx2 ? 8 : 16; }

class Simd {
 public:
  Simd(x86::Compiler& cc, Isa isa)
      : cc(cc), wide(isa != Isa::kAvx2), vnni(isa == Isa::kAvx512Vnni), lanes(LanesOf(isa)) {}

  x86::Compiler& cc;
  const bool wide;  // AVX-512
  const bool vnni;  // with products of 16-bit integers
  const int lanes;  // 32-bit lanes of a register; a vector of 64-bit values takes two registers
  int vector_bytes() const { return lanes * 4; }

  Reg New() { return wide ? static_cast<Reg>(cc.newZmm()) : static_cast<Reg>(cc.newYmm()); }
  Reg Half(const Reg& r) const { return wide ? static_cast<Reg>(r.ymm()) : static_cast<Reg>(r.xmm()); }

  // A vector constant in the pool behind the code, usable as the last operand of any operation.
  Mem Splat32(uint32_t bits);
  Mem Splat64(uint64_t bits);
  Mem F32(float value);
  Mem F64(double value);
  Reg Load(const Mem& m);
  Reg Zero();

  // dst = inst(a, b) in a new register.
  Reg Op1(InstId inst, const Operand& a);
  Reg Op2(InstId inst, const Reg& a, const Operand& b);
  Reg Shift(InstId inst, const Reg& a, int count);
  Reg Copy(const Reg& a);

  Reg Add(const Reg& a, const Operand& b) { return Op2(Inst::kIdVaddps, a, b); }
  Reg Sub(const Reg& a, const Operand& b) { return Op2(Inst::kIdVsubps, a, b); }
  Reg Mul(const Reg& a, const Operand& b) { return Op2(Inst::kIdVmulps, a, b); }
  Reg Div(const Reg& a, const Operand& b) { return Op2(Inst::kIdVdivps, a, b); }
  Reg And(const Reg& a, const Operand& b) { return Op2(Inst::kIdVandps, a, b); }
  Reg Or(const Reg& a, const Operand& b) { return Op2(Inst::kIdVorps, a, b); }
  Reg Xor(const Reg& a, const Operand& b) { return Op2(Inst::kIdVxorps, a, b); }
  // acc = acc * b + c, one rounding.
  void FmaInto(const Reg& acc, const Reg& b, const Operand& c) { cc.emit(Inst::kIdVfmadd213ps, acc, b, c); }
  // acc = a * b + acc and acc - a * b, one rounding.
  void MulAddTo(const Reg& acc, const Reg& a, const Operand& b) { cc.emit(Inst::kIdVfmadd231ps, acc, a, b); }
  void MulSubFrom(const Reg& acc, const Reg& a, const Operand& b) { cc.emit(Inst::kIdVfnmadd231ps, acc, a, b); }

  // mode: 0 nearest even, 1 down, 2 up, 3 toward zero.
  Reg Round32(const Reg& a, int mode);
  Reg Round64(const Reg& a, int mode);

  Reg CompareF32(const Reg& a, const Operand& b, int code);
  Reg CompareF64(const Reg& a, const Operand& b, int code);
  Reg CompareI32(const Reg& a, const Operand& b, int code);  // kEqual or kGreater
  Reg CompareI64(const Reg& a, const Operand& b, int code);
  // Lanes of `value` where a compares to b, zero elsewhere.
  Reg KeepF32(const Reg& a, const Operand& b, int code, const Reg& value);
  // compare(a, b) ? on_true : on_false; with AVX-512 cheaper than a mask that is made a vector.
  Reg SelectF32(const Reg& a, const Operand& b, int code, const Operand& on_true, const Reg& on_false);
  // mask ? on_true : on_false, per lane; the sign bit of a lane decides.
  Reg Blend32(const Reg& mask, const Reg& on_true, const Reg& on_false);
  Reg Blend64(const Reg& mask, const Reg& on_true, const Reg& on_false);

  // Halves of a register as half-width views, and back.
  Reg HighHalf(const Reg& a);
  Reg Join(const Reg& low_half, const Reg& high_half);

  // Lane masks of 32 bits as those of two 64-bit registers, and back.
  void Widen(const Reg& a, Reg out[2]);  // sign-extends i32 to i64
  Reg Narrow(const Reg a[2]);            // low 32 bits of each 64-bit lane

  // AVX-512.
  Reg MergeF32(const x86::KReg& k, const Operand& on_true, const Reg& on_false);
  x86::KReg MaskBits(const Reg& mask32);
  x86::KReg CompareBits(const Reg& a, const Operand& b, int code);  // of f32
};

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_SIMD_H_
