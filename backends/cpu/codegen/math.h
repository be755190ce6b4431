// Vector implementations of functions on f32. Bounds on the error in units of the last place, checked by
// tests/cpp/kernels/math_test.cc against the C library in higher precision:
//   exp 1.5, expm1 2, log 1.5, log1p 2, tanh 2, sigmoid 2.5 (result zero below -88.8, as torch), erf 1.5, sin 2, cos 2,
//   normal_cdf 2.4e-7 absolute, gelu 6 where x > 0 and 4.8e-7 absolute elsewhere (torch's own is 5 and 1.2e-6),
//   exp_nonpositive 1.5 (zero below -87.3365)
// Infinities, NaN, signed zeros and denormals give what the C library gives.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_MATH_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_MATH_H_

#include "backends/cpu/codegen/simd.h"

namespace framejit::cpu {

Reg EmitExp(Simd& s, const Reg& x);
Reg EmitExpm1(Simd& s, const Reg& x);
Reg EmitExp2(Simd& s, const Reg& x);
Reg EmitLog(Simd& s, const Reg& x);
Reg EmitLog2(Simd& s, const Reg& x);
Reg EmitLog10(Simd& s, const Reg& x);
Reg EmitLog1p(Simd& s, const Reg& x);
Reg EmitTanh(Simd& s, const Reg& x);
Reg EmitSigmoid(Simd& s, const Reg& x);
Reg EmitErf(Simd& s, const Reg& x);
Reg EmitGelu(Simd& s, const Reg& x);
Reg EmitShortGelu(Simd& s, const Reg& x);  // of what is rounded to bfloat16
Reg EmitNormalCdf(Simd& s, const Reg& x);
Reg EmitExpNonPositive(Simd& s, const Reg& x);

// sin (or cos) where |x| <= kSinCosLimit; other lanes hold garbage and are the caller's.
inline constexpr float kSinCosLimit = 1073741824.0f;
Reg EmitSinCos(Simd& s, const Reg& x, bool cosine);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_MATH_H_
