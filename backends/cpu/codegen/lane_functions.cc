// See lane_functions.h. Each begins with vzeroupper: the C library may use legacy SSE, slow with dirty upper halves,
// and generated code saves its vector registers before the call.
#include "backends/cpu/codegen/lane_functions.h"

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace framejit::cpu {
namespace {

using loop::DType;
using loop::Op;

__attribute__((target("avx"))) void ClearUpperHalves() { _mm256_zeroupper(); }

template <typename T, typename F>
void Apply1(void* x, int64_t lanes, F f) {
  ClearUpperHalves();
  T* values = static_cast<T*>(x);
  for (int64_t i = 0; i < lanes; ++i) values[i] = f(values[i]);
}

template <typename T, typename F>
void Apply2(void* x, const void* y, int64_t lanes, F f) {
  ClearUpperHalves();
  T* left = static_cast<T*>(x);
  const T* right = static_cast<const T*>(y);
  for (int64_t i = 0; i < lanes; ++i) left[i] = f(left[i], right[i]);
}

template <typename T>
T NormalOrZero(T value) {
  return value < std::numeric_limits<T>::min() ? T(0) : value;
}

template <typename T>
LaneFunction Find(Op op) {
#define FRAMEJIT_LANE1(name, expression) \
  case Op::name:                         \
    return [](void* x, const void*, int64_t lanes) { Apply1<T>(x, lanes, [](T v) -> T { return expression; }); };
#define FRAMEJIT_LANE2(name, expression)                                \
  case Op::name:                                                        \
    return [](void* x, const void* y, int64_t lanes) {                  \
      Apply2<T>(x, y, lanes, [](T v, T w) -> T { return expression; }); \
    };
  switch (op) {
    FRAMEJIT_LANE1(kExp, std::exp(v))
    FRAMEJIT_LANE1(kExpm1, std::expm1(v))
    FRAMEJIT_LANE1(kLog, std::log(v))
    FRAMEJIT_LANE1(kLog1p, std::log1p(v))
    FRAMEJIT_LANE1(kTanh, std::tanh(v))
    FRAMEJIT_LANE1(kSigmoid, T(1) / (T(1) + std::exp(-v)))
    FRAMEJIT_LANE1(kErf, std::erf(v))
    FRAMEJIT_LANE1(kGelu, v * T(0.5) * std::erfc(-v * T(M_SQRT1_2)))
    FRAMEJIT_LANE1(kNormalCdf, T(0.5) * std::erfc(-v * T(M_SQRT1_2)))
    FRAMEJIT_LANE1(kExpNonPositive, NormalOrZero(std::exp(v > T(0) ? T(0) : v)))
    FRAMEJIT_LANE1(kSin, std::sin(v))
    FRAMEJIT_LANE1(kCos, std::cos(v))
    FRAMEJIT_LANE1(kExp2, std::exp2(v))
    FRAMEJIT_LANE1(kLog2, std::log2(v))
    FRAMEJIT_LANE1(kLog10, std::log10(v))
    FRAMEJIT_LANE1(kErfc, std::erfc(v))
    FRAMEJIT_LANE1(kTan, std::tan(v))
    FRAMEJIT_LANE1(kAsin, std::asin(v))
    FRAMEJIT_LANE1(kAcos, std::acos(v))
    FRAMEJIT_LANE1(kAtan, std::atan(v))
    FRAMEJIT_LANE1(kSinh, std::sinh(v))
    FRAMEJIT_LANE1(kCosh, std::cosh(v))
    FRAMEJIT_LANE2(kPow, std::pow(v, w))
    FRAMEJIT_LANE2(kAtan2, std::atan2(v, w))
    FRAMEJIT_LANE2(kFmod, std::fmod(v, w))
    default:
      return nullptr;
  }
#undef FRAMEJIT_LANE1
#undef FRAMEJIT_LANE2
}

// C's conversion of an out-of-range float is undefined; the instruction's "indefinite" value is what eager shows.
int64_t Truncate(double value) { return _mm_cvttsd_si64(_mm_set_sd(value)); }
int64_t Truncate(float value) { return _mm_cvttss_si64(_mm_set_ss(value)); }

template <typename From, typename To>
To ConvertOne(From value) {
  if constexpr (std::is_same_v<To, int64_t>)
    return Truncate(value);
  else
    return static_cast<To>(value);
}

// In place; a widening conversion runs backwards so that no operand is overwritten before it is read.
template <typename From, typename To>
void Convert(void* x, const void*, int64_t lanes) {
  ClearUpperHalves();
  char* bytes = static_cast<char*>(x);
  for (int64_t k = 0; k < lanes; ++k) {
    const int64_t i = sizeof(To) > sizeof(From) ? lanes - 1 - k : k;
    From value;
    std::memcpy(&value, bytes + i * sizeof(From), sizeof value);
    const To result = ConvertOne<From, To>(value);
    std::memcpy(bytes + i * sizeof(To), &result, sizeof result);
  }
}

}  // namespace

LaneFunction FindLaneFunction(Op op, DType dtype) {
  return dtype == DType::kFloat64 ? Find<double>(op) : Find<float>(op);
}

LaneFunction FindLaneConversion(DType from, DType to) {
  if (from == DType::kInt64 && to == DType::kFloat32) return Convert<int64_t, float>;
  if (from == DType::kInt64 && to == DType::kFloat64) return Convert<int64_t, double>;
  if (from == DType::kFloat32 && to == DType::kInt64) return Convert<float, int64_t>;
  if (from == DType::kFloat64 && to == DType::kInt64) return Convert<double, int64_t>;
  return nullptr;
}

}  // namespace framejit::cpu
