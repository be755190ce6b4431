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

// 2^r for |r| <= 1/2.
Reg PowerOfTwoOfFraction(Simd& s, const Reg& r) {
  return Polynomial(s, r,
                    {1.534581242594868e-4f, 1.3399930903688073e-3f, 9.618489071726799e-3f, 5.550328642129898e-2f,
                     2.4022646248340607e-1f, 6.931471824645996e-1f, 1.0f});
}

// p 2^n for integral n (as f32) in [-252, 254] and p near 1, rounded once.
Reg Scale(Simd& s, const Reg& p, const Reg& n) {
  if (s.wide) return s.Op2(Inst::kIdVscalefps, p, n);
  // Two factors, so that both are normal numbers and the result rounds once when it is denormal or overflows.
  const Reg whole = s.Op1(Inst::kIdVcvtps2dq, n);
  const Reg half = s.Shift(Inst::kIdVpsrad, whole, 1);
  const Reg rest = s.Op2(Inst::kIdVpsubd, whole, half);
  return s.Mul(s.Mul(p, PowerOfTwo(s, half)), PowerOfTwo(s, rest));
}

// x = m 2^e with m in [sqrt(1/2), sqrt(2)), for positive numbers; denormal ones only with AVX-512.
struct Parts {
  Reg f;  // m - 1
  Reg e;
};

Parts SplitByInstruction(Simd& s, const Reg& x) {
  Reg e = s.Op1(Inst::kIdVgetexpps, x);
  Reg m = s.Shift(Inst::kIdVgetmantps, x, 0);  // in [1, 2)
  const x86::KReg large = s.CompareBits(m, s.F32(1.41421356f), kGreater);
  s.cc.k(large).emit(Inst::kIdVmulps, m, m, s.F32(0.5f));
  s.cc.k(large).emit(Inst::kIdVaddps, e, e, s.F32(1.0f));
  return {s.Sub(m, s.F32(1.0f)), e};
}

// `exponent_bias` is subtracted from the exponent (denormals come scaled).
Parts SplitByBits(Simd& s, const Reg& x, const Reg& exponent_bias) {
  // Subtracting the bits of sqrt(1/2) moves the exponent's step there.
  const Reg shifted = s.Op2(Inst::kIdVpsubd, x, s.Splat32(0x3f3504f3u));
  const Reg n = s.Op2(Inst::kIdVpsubd, s.Shift(Inst::kIdVpsrad, shifted, 23), exponent_bias);
  const Reg mantissa = s.Op2(Inst::kIdVpaddd, s.And(shifted, s.Splat32(0x007fffffu)), s.Splat32(0x3f3504f3u));
  return {s.Sub(mantissa, s.F32(1.0f)), s.Op1(Inst::kIdVcvtdq2ps, n)};
}

Parts SplitPositive(Simd& s, const Reg& x) {
  if (s.wide) return SplitByInstruction(s, x);
  const Reg denormal = s.CompareF32(x, s.F32(std::numeric_limits<float>::min()), kLess);
  const Reg scaled = s.Blend32(denormal, s.Mul(x, s.F32(8388608.0f)), x);
  return SplitByBits(s, scaled, s.And(denormal, s.Splat32(23)));
}

// log(1 + f) - f.
Reg LogTerms(Simd& s, const Reg& f, const Reg& z) {
  const Reg p = Polynomial(s, f,
                           {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                            -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f});
  return s.Mul(s.Mul(p, f), z);  // but for -z / 2
}

// What logarithms of all bases are where x is no positive number.
Reg FixLog(Simd& s, const Reg& x, const Reg& result) {
  if (s.wide) {
    // vfixupimm's table, by class of x from the last digit on: NaN twice, zero, one, -inf, inf, negative, positive.
    constexpr uint32_t kFixes = 0x03530422;
    s.cc.emit(Inst::kIdVfixupimmps, result, x, s.Splat32(kFixes), Imm(0));
    return result;
  }
  // Infinity and NaN are their own logarithms; zero and negative numbers come last.
  Reg fixed = s.SelectF32(x, s.F32(std::numeric_limits<float>::max()), 22, x, result);  // not <=, true for NaN
  const Reg zero = s.Zero();
  fixed = s.SelectF32(x, zero, kEqual, s.F32(-kInfinity), fixed);
  return s.Or(fixed, s.CompareF32(x, zero, kLess));  // all ones is a NaN
}

// log(x) = e log(2) + log(1 + f), in units of another base's: log(1 + f) / log(base) + e log(2) / log(base). The
// factors come in two parts, so that the larger terms are rounded once.
struct Base {
  float unit, unit_rest;  // 1 / log(base)
  float two, two_rest;    // log(2) / log(base)
};
Reg LogOfBase(Simd& s, const Reg& x, const Base& base) {
  const Parts parts = SplitPositive(s, x);
  const Reg z = s.Mul(parts.f, parts.f);
  const Reg y = LogTerms(s, parts.f, z);
  s.MulSubFrom(y, z, s.F32(0.5f));
  const Reg result = s.Mul(y, s.F32(base.unit));
  s.MulAddTo(result, parts.f, s.F32(base.unit_rest));
  if (base.two_rest != 0) s.MulAddTo(result, parts.e, s.F32(base.two_rest));
  s.MulAddTo(result, parts.f, s.F32(base.unit));
  s.MulAddTo(result, parts.e, s.F32(base.two));
  return FixLog(s, x, result);
}

}  // namespace

Reg EmitExp(Simd& s, const Reg& x) {
  const Reg inside = ClampFromBelow(s, ClampFromAbove(s, x, 89.0f), -104.0f);
  const Reduced parts = ReduceByLn2(s, inside);
  return Scale(s, ExpOfReduced(s, parts.r), parts.n);
}

Reg EmitExp2(Simd& s, const Reg& x) {
  const Reg inside = ClampFromBelow(s, ClampFromAbove(s, x, 129.0f), -152.0f);
  const Reg n = s.Round32(inside, 0);
  return Scale(s, PowerOfTwoOfFraction(s, s.Sub(inside, n)), n);
}

// What underflows takes a hundred cycles on some machines, and where a mask has filled in -inf it is most of a row:
// such lanes compute exp(0) instead.
Reg EmitExpNonPositive(Simd& s, const Reg& x) {
  constexpr float kLowest = -103.9721f;  // below, zero is nearest
  const Reg inside = s.KeepF32(x, s.F32(kLowest), kNotLess, ClampFromAbove(s, x, 0.0f));
  const Reduced parts = ReduceByLn2(s, inside);
  return s.KeepF32(x, s.F32(kLowest), kNotLess, Scale(s, ExpOfReduced(s, parts.r), parts.n));
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
  const Parts parts = SplitPositive(s, x);
  const Reg z = s.Mul(parts.f, parts.f);
  Reg y = LogTerms(s, parts.f, z);
  s.MulAddTo(y, parts.e, s.F32(-2.12194440e-4f));  // log(2) in two parts, the larger one of few bits
  s.MulSubFrom(y, z, s.F32(0.5f));
  const Reg sum = s.Add(parts.f, y);
  s.MulAddTo(sum, parts.e, s.F32(0.693359375f));
  return FixLog(s, x, sum);
}

Reg EmitLog2(Simd& s, const Reg& x) { return LogOfBase(s, x, {0x1.715476p+0f, 0x1.4ae0c0p-26f, 1, 0}); }
Reg EmitLog10(Simd& s, const Reg& x) {
  return LogOfBase(s, x, {0x1.bcb7b2p-2f, -0x1.5b235ep-27f, 0x1.344136p-2f, -0x1.ec10c0p-27f});
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

// 2^p for p <= 0, zero far below; `fraction` computes 2^r for |r| <= 1/2.
Reg PowerOfTwoBelowOne(Simd& s, const Reg& p, Reg (*fraction)(Simd&, const Reg&)) {
  constexpr float kLowest = -126.0f;
  const Reg inside = ClampFromBelow(s, p, s.wide ? -1000.0f : kLowest);
  const Reg n = s.Round32(inside, 0);
  const Reg power = ScaleInside(s, fraction(s, s.Sub(inside, n)), n);  // with AVX-512 zero and denormal numbers too
  return s.wide ? power : s.KeepF32(p, s.F32(kLowest), kNotLess, power);
}

// The normal distribution function of -t, for t >= 0: 2^p(t), where p is the polynomial of degree 8 with p(0) = -1
// whose error, weighted with the result's size to the power 0.8, is smallest on [0, 5.5] (fitted by Lawson's
// iteration); beyond it p falls on.
Reg NormalTail(Simd& s, const Reg& t) {
  const Reg p =
      Polynomial(s, t,
                 {-2.0855011371168075e-6f, 3.09349452436436e-5f, -1.48945051478222e-4f, -2.1900895808357745e-4f,
                  7.159043103456497e-3f, -5.2553318440914154e-2f, -4.591927230358124e-1f, -1.151106595993042f, -1.0f});
  return PowerOfTwoBelowOne(s, p, PowerOfTwoOfFraction);
}

// The same with a relative error of 4e-4, a tenth of a unit of bfloat16: degree 5, fitted on [0, 5.6], and degree 3.
Reg ShortNormalTail(Simd& s, const Reg& t) {
  const Reg p = Polynomial(s, t,
                           {-2.344629503874018e-4f, 4.907336896299106e-3f, -4.490855858837485e-2f,
                            -4.687017654057826e-1f, -1.147426858014677f, -1.0f});
  return PowerOfTwoBelowOne(s, p, [](Simd& simd, const Reg& r) {
    return Polynomial(simd, r,
                      {5.517178401350975e-2f, 2.4261142313480377e-1f, 6.932609677314758e-1f, 9.999280571937561e-1f});
  });
}

// max(x, 0) - |x| tail(|x|). Of infinity that is infinity, since x is cut off above where the tail is zero; of minus
// infinity NaN, as in eager mode.
Reg GeluBy(Simd& s, const Reg& x, Reg (*tail)(Simd&, const Reg&)) {
  const Reg t = s.And(ClampFromAbove(s, x, 16.0f), s.Splat32(~kSignBit));
  const Reg result = ClampFromBelow(s, x, -0.0f);  // large negative numbers give -0
  s.MulSubFrom(result, t, tail(s, t));
  return result;
}

}  // namespace

Reg EmitNormalCdf(Simd& s, const Reg& x) {
  const Reg tail = NormalTail(s, ClampFromAbove(s, s.And(x, s.Splat32(~kSignBit)), 16.0f));
  return s.Blend32(x, tail, s.Sub(s.Load(s.F32(1.0f)), tail));  // by the sign bit
}

Reg EmitGelu(Simd& s, const Reg& x) { return GeluBy(s, x, NormalTail); }
Reg EmitShortGelu(Simd& s, const Reg& x) { return GeluBy(s, x, ShortNormalTail); }

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
