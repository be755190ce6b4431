// See math.h. Polynomials: exp, log, tanh, sin and cos after Cephes (S. Moshier); erf after N. Juffa's erff.
#include "backends/cpu/codegen/math.h"

#include <initializer_list>
#include <limits>

namespace framejit::cpu {
namespace {

constexpr uint32_t kSignBit = 0x80000000u;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Horner's rule, highest power first.
Reg Polynomial(Simd& s, const Reg& x, std::initializer_list<float> coefficients) {
  const float* c = coefficients.begin();
  Reg sum = s.Load(s.F32(*c++));
  while (c != coefficients.end()) s.FmaInto(sum, x, s.F32(*c++));
  return sum;
}

// The same with pairs of terms joined first and x^2 given: half as long a chain of dependent operations, for the
// functions whose latency would otherwise show.
Reg PairedPolynomial(Simd& s, const Reg& x, const Reg& square, std::initializer_list<float> coefficients) {
  const float* c = coefficients.begin();
  Reg sum = s.Load(s.F32(*c++));
  if (coefficients.size() % 2 == 0) s.FmaInto(sum, x, s.F32(*c++));
  while (c != coefficients.end()) {
    Reg pair = s.Load(s.F32(*c++));
    s.FmaInto(pair, x, s.F32(*c++));
    s.FmaInto(sum, square, pair);
  }
  return sum;
}

// A NaN in x stays: vminps and vmaxps return their second operand then.
Reg ClampFromBelow(Simd& s, const Reg& x, float low) { return s.Op2(Inst::kIdVmaxps, s.Load(s.F32(low)), x); }
Reg ClampFromAbove(Simd& s, const Reg& x, float high) { return s.Op2(Inst::kIdVminps, s.Load(s.F32(high)), x); }

// x = n ln 2 + r with |r| <= ln 2 / 2, n integral.
struct Reduced {
  Reg n, r;
};
Reduced ReduceByLn2(Simd& s, const Reg& x) {
  const Reg n = s.Round32(s.Mul(x, s.F32(1.44269504088896341f)), 0);
  Reg r = s.Copy(x);
  s.MulSubFrom(r, n, s.F32(0.693359375f));
  s.MulSubFrom(r, n, s.F32(-2.12194440e-4f));
  return {n, r};
}

// exp(r) - 1.
Reg Expm1OfReduced(Simd& s, const Reg& r) {
  const Reg square = s.Mul(r, r);
  Reg p = PairedPolynomial(
      s, r, square,
      {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f});
  s.FmaInto(p, square, r);
  return p;
}

Reg ExpOfReduced(Simd& s, const Reg& r) { return s.Add(Expm1OfReduced(s, r), s.F32(1.0f)); }

// 2^n for integral n (as i32 lanes) in [-126, 127].
Reg PowerOfTwo(Simd& s, const Reg& n) {
  return s.Shift(Inst::kIdVpslld, s.Op2(Inst::kIdVpaddd, n, s.Splat32(127)), 23);
}

// p 2^n for p in [1/2, 2] where the result is a normal number.
Reg ScaleInside(Simd& s, const Reg& p, const Reg& n) {
  if (s.wide) return s.Op2(Inst::kIdVscalefps, p, n);
  return s.Op2(Inst::kIdVpaddd, p, s.Shift(Inst::kIdVpslld, s.Op1(Inst::kIdVcvtps2dq, n), 23));
}

// exp for |x| <= 87: no overflow, no denormals.
Reg ExpInside(Simd& s, const Reg& x) {
  const Reduced parts = ReduceByLn2(s, x);
  return ScaleInside(s, ExpOfReduced(s, parts.r), parts.n);
}

// log for normal positive x and the infinities and NaNs patched by the caller; `exponent_bias` is subtracted from the
// exponent (denormals come scaled).
Reg LogOfNormal(Simd& s, const Reg& x, const Reg& exponent_bias) {
  // Mantissa in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) moves the exponent's step there.
  const Reg shifted = s.Op2(Inst::kIdVpsubd, x, s.Splat32(0x3f3504f3u));
  const Reg n = s.Op2(Inst::kIdVpsubd, s.Shift(Inst::kIdVpsrad, shifted, 23), exponent_bias);
  const Reg e = s.Op1(Inst::kIdVcvtdq2ps, n);
  const Reg mantissa = s.Op2(Inst::kIdVpaddd, s.And(shifted, s.Splat32(0x007fffffu)), s.Splat32(0x3f3504f3u));
  const Reg f = s.Sub(mantissa, s.F32(1.0f));
  const Reg z = s.Mul(f, f);
  const Reg p = Polynomial(s, f,
                           {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                            -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f});
  Reg y = s.Mul(s.Mul(p, f), z);
  s.MulAddTo(y, e, s.F32(-2.12194440e-4f));
  s.MulSubFrom(y, z, s.F32(0.5f));
  const Reg sum = s.Add(f, y);
  s.MulAddTo(sum, e, s.F32(0.693359375f));
  return sum;
}

}  // namespace

namespace {

// exp for x in [-104, 89]: with denormal results and infinity.
Reg ScaledExp(Simd& s, const Reg& x) {
  const Reduced parts = ReduceByLn2(s, x);
  const Reg p = ExpOfReduced(s, parts.r);
  if (s.wide) return s.Op2(Inst::kIdVscalefps, p, parts.n);
  // Two factors, so that both are normal numbers and the result rounds once when it is denormal or overflows.
  const Reg n = s.Op1(Inst::kIdVcvtps2dq, parts.n);
  const Reg half = s.Shift(Inst::kIdVpsrad, n, 1);
  const Reg rest = s.Op2(Inst::kIdVpsubd, n, half);
  return s.Mul(s.Mul(p, PowerOfTwo(s, half)), PowerOfTwo(s, rest));
}

}  // namespace

Reg EmitExp(Simd& s, const Reg& x) {
  return ScaledExp(s, ClampFromBelow(s, ClampFromAbove(s, x, 89.0f), -104.0f));
}

// What underflows takes a hundred cycles on some machines, and where a mask has filled in -inf it is most of a row: such
// lanes compute exp(0) instead.
Reg EmitExpNonPositive(Simd& s, const Reg& x) {
  constexpr float kLowest = -103.9721f;  // below, zero is nearest
  const Reg inside = s.KeepF32(x, s.F32(kLowest), kNotLess, ClampFromAbove(s, x, 0.0f));
  return s.KeepF32(x, s.F32(kLowest), kNotLess, ScaledExp(s, inside));
}

Reg EmitExpm1(Simd& s, const Reg& x) {
  const Reg inside = ClampFromBelow(s, ClampFromAbove(s, x, 89.0f), -25.0f);
  const Reduced parts = ReduceByLn2(s, inside);
  Reg p = Expm1OfReduced(s, parts.r);
  // 2^n (1 + p) - 1 = 2 (t p + (t - 1/2)) with t = 2^(n-1), which does not overflow before the result does.
  const Reg n = s.Op1(Inst::kIdVcvtps2dq, parts.n);
  const Reg t = PowerOfTwo(s, s.Op2(Inst::kIdVpsubd, n, s.Splat32(1)));
  s.FmaInto(p, t, s.Sub(t, s.F32(0.5f)));
  const Reg result = s.Add(p, p);
  // The smallest numbers, which half of p would lose, are their own results, and so is -0.
  return s.SelectF32(s.And(x, s.Splat32(~kSignBit)), s.F32(1e-30f), kLess, x, result);
}

Reg EmitLog(Simd& s, const Reg& x) {
  const Reg denormal = s.CompareF32(x, s.F32(std::numeric_limits<float>::min()), kLess);
  const Reg scaled = s.Blend32(denormal, s.Mul(x, s.F32(8388608.0f)), x);
  const Reg bias = s.And(denormal, s.Splat32(23));
  Reg result = LogOfNormal(s, scaled, bias);
  // Infinity and NaN are their own logarithms; zero and negative numbers come last.
  result = s.SelectF32(x, s.F32(std::numeric_limits<float>::max()), 22, x, result);  // not <=, true for NaN
  const Reg zero = s.Zero();
  result = s.SelectF32(x, zero, kEqual, s.F32(-kInfinity), result);
  return s.Or(result, s.CompareF32(x, zero, kLess));  // all ones is a NaN
}

// log(u) + (x - (u - 1)) / u with u = 1 + x rounded: the second term restores what rounding u lost.
Reg EmitLog1p(Simd& s, const Reg& x) {
  const Reg one = s.Load(s.F32(1.0f));
  const Reg u = s.Add(x, one);
  const Reg log_u = EmitLog(s, u);
  const Reg correction = s.Div(s.Sub(x, s.Sub(u, one)), u);
  const Reg sum = s.Add(log_u, correction);
  const Reg result = s.SelectF32(correction, correction, kUnordered, log_u, sum);  // u is 0, infinite or NaN
  return s.SelectF32(u, one, kEqual, x, result);
}

Reg EmitTanh(Simd& s, const Reg& x) {
  const Reg magnitude = s.And(x, s.Splat32(~kSignBit));
  const Reg sign = s.And(x, s.Splat32(kSignBit));
  const Reg z = s.Mul(x, x);
  Reg small = Polynomial(
      s, z, {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f});
  small = s.Mul(small, z);
  s.FmaInto(small, x, x);
  const Reg inside = ClampFromAbove(s, magnitude, 10.0f);
  const Reg e = ExpInside(s, s.Add(inside, inside));
  const Reg one = s.Load(s.F32(1.0f));
  const Reg large = s.Sub(one, s.Div(s.Load(s.F32(2.0f)), s.Add(e, one)));
  return s.Or(s.SelectF32(magnitude, s.F32(0.625f), kLess, small, large), sign);  // keeps -0
}

Reg EmitSigmoid(Simd& s, const Reg& x) {
  const Reg e = EmitExp(s, s.Xor(x, s.Splat32(kSignBit)));
  const Reg one = s.Load(s.F32(1.0f));
  return s.Div(one, s.Add(e, one));
}

Reg EmitErf(Simd& s, const Reg& x) {
  const Reg t = ClampFromAbove(s, s.And(x, s.Splat32(~kSignBit)), 4.0f);
  const Reg square = s.Mul(t, t);
  Reg small = Polynomial(
      s, square, {-5.96761703e-4f, 4.99119423e-3f, -2.67681349e-2f, 1.12819925e-1f, -3.76125336e-1f, 1.28379166e-1f});
  s.FmaInto(small, x, x);
  // 1 - exp(-t - t q(t)).
  const Reg q = PairedPolynomial(s, t, square,
                                 {-1.72853470e-5f, 3.83197126e-4f, -3.88396438e-3f, 2.42546219e-2f, -1.06777877e-1f,
                                  -6.34846687e-1f, -1.28717512e-1f});
  const Reg exponent = s.Sub(s.Mul(q, t), t);
  const Reg large = s.Sub(s.Load(s.F32(1.0f)), ExpInside(s, exponent));
  const Reg sign = s.And(x, s.Splat32(kSignBit));
  return s.SelectF32(t, s.F32(0.927734375f), kLessEqual, small, s.Or(large, sign));
}

namespace {

// The normal distribution function of -t, for t >= 0: 2^p(t), where p is the polynomial of degree 8 whose error
// weighted with the result's size, 6.2e-8, is smallest on [0, 5.5] (fitted by Lawson's iteration); beyond it p falls
// on.
Reg NormalTail(Simd& s, const Reg& t) {
  const Reg p = Polynomial(s, t,
                           {-7.681828719796613e-7f, 1.3339327779249288e-5f, -5.7818659115582705e-5f,
                            -4.521507944446057e-4f, 7.471939083188772e-3f, -5.2769359201192856e-2f,
                            -4.5912304520606995e-1f, -1.151114821434021f, -9.999998211860657e-1f});
  constexpr float kLowest = -126.0f;
  const Reg inside = ClampFromBelow(s, p, s.wide ? -1000.0f : kLowest);
  const Reg n = s.Round32(inside, 0);
  const Reg power = Polynomial(s, s.Sub(inside, n),
                               {1.534581242594868e-4f, 1.3399930903688073e-3f, 9.618489071726799e-3f,
                                5.550328642129898e-2f, 2.4022646248340607e-1f, 6.931471824645996e-1f, 1.0f});
  const Reg tail = ScaleInside(s, power, n);  // with AVX-512 zero and denormal numbers too
  return s.wide ? tail : s.KeepF32(p, s.F32(kLowest), kNotLess, tail);
}

}  // namespace

Reg EmitNormalCdf(Simd& s, const Reg& x) {
  const Reg tail = NormalTail(s, ClampFromAbove(s, s.And(x, s.Splat32(~kSignBit)), 16.0f));
  return s.Blend32(x, tail, s.Sub(s.Load(s.F32(1.0f)), tail));  // by the sign bit
}

// max(x, 0) - |x| tail(|x|). Of infinity that is infinity, since x is cut off above where the tail is zero; of minus
// infinity NaN, as in eager mode.
Reg EmitGelu(Simd& s, const Reg& x) {
  const Reg t = s.And(ClampFromAbove(s, x, 16.0f), s.Splat32(~kSignBit));
  const Reg result = ClampFromBelow(s, x, -0.0f);  // large negative numbers give -0
  s.MulSubFrom(result, t, NormalTail(s, t));
  return result;
}

namespace {

// x - n pi/2 in f64 for one half of the lanes; n as f64.
struct Quadrants {
  Reg n, r;
};
Quadrants ReduceByHalfPi(Simd& s, const Reg& half) {
  const Reg x = s.Op1(Inst::kIdVcvtps2pd, half);
  const Reg n = s.Round64(s.Op2(Inst::kIdVmulpd, x, s.F64(0x1.45f306dc9c883p-1)), 0);
  s.cc.emit(Inst::kIdVfnmadd231pd, x, n, s.F64(0x1.921fb54442d18p+0));
  s.cc.emit(Inst::kIdVfnmadd231pd, x, n, s.F64(0x1.1a62633145c07p-54));
  return {n, x};
}

Reg JoinConverted(Simd& s, InstId inst, const Reg& low, const Reg& high) {
  Reg a = s.New(), b = s.New();
  s.cc.emit(inst, s.Half(a), low);
  s.cc.emit(inst, s.Half(b), high);
  return s.Join(s.Half(a), s.Half(b));
}

}  // namespace

Reg EmitSinCos(Simd& s, const Reg& x, bool cosine) {
  const Quadrants low = ReduceByHalfPi(s, s.Half(x));
  const Quadrants high = ReduceByHalfPi(s, s.HighHalf(x));
  const Reg r = JoinConverted(s, Inst::kIdVcvtpd2ps, low.r, high.r);
  Reg n = JoinConverted(s, Inst::kIdVcvtpd2dq, low.n, high.n);
  if (cosine) n = s.Op2(Inst::kIdVpaddd, n, s.Splat32(1));  // cos x = sin(x + pi/2)
  const Reg z = s.Mul(r, r);
  Reg sine = Polynomial(s, z, {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f});
  sine = s.Mul(sine, z);
  s.FmaInto(sine, r, r);
  Reg cosine_part = Polynomial(s, z, {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f, -0.5f});
  s.FmaInto(cosine_part, z, s.F32(1.0f));
  // Odd quadrants take the cosine; quadrants 2 and 3 are negative.
  const Reg odd = s.CompareI32(s.And(n, s.Splat32(1)), s.Splat32(1), kEqual);
  const Reg value = s.Blend32(odd, cosine_part, sine);
  const Reg sign = s.Shift(Inst::kIdVpslld, s.And(n, s.Splat32(2)), 30);
  const Reg result = s.Xor(value, sign);
  if (cosine) return result;
  return s.SelectF32(x, s.Zero(), kEqual, x, result);  // keeps -0
}

}  // namespace framejit::cpu
