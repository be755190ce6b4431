#include "backends/optimizers/updates.h"

#include <algorithm>
#include <cmath>

namespace framejit {
namespace {

#define FRAMEJIT_INLINE [[gnu::always_inline]] inline

// torch's operators on one element, vectorized forms: add(a, b, alpha) is one fused operation, the others are not.
template <typename T>
FRAMEJIT_INLINE T AddScaled(T a, T b, T alpha) {
  return std::fma(b, alpha, a);
}
template <typename T>
FRAMEJIT_INLINE T AddProduct(T a, T value, T b, T c) {
  return a + value * b * c;
}
template <typename T>
FRAMEJIT_INLINE T AddQuotient(T a, T value, T b, T c) {
  return a + value * b / c;
}
// `weight` is invariant: the compiler makes two loops of it.
template <typename T>
FRAMEJIT_INLINE T Lerp(T a, T b, T weight) {
  return std::abs(weight) < T(0.5) ? std::fma(weight, b - a, a) : std::fma(weight - T(1), b - a, b);
}
template <typename T>
FRAMEJIT_INLINE T Gradient(T gradient, bool maximize) {
  return maximize ? -gradient : gradient;
}

// Each rule: the numbers of an update in the elements' type, as torch casts them, and what it does to one element.
template <typename T>
struct SgdRule {
  using Element = T;
  T minus_lr, momentum, new_part, weight_decay;
  bool nesterov, maximize;
  explicit SgdRule(const SgdUpdate& u)
      : minus_lr(T(-u.lr)),
        momentum(T(u.momentum)),
        new_part(T(1 - u.dampening)),
        weight_decay(T(u.weight_decay)),
        nesterov(u.nesterov),
        maximize(u.maximize) {}
  FRAMEJIT_INLINE void Run(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    T* __restrict parameter = s.parameter;
    const T* __restrict gradient = s.gradient;
    T* __restrict buffer = s.state[0];
    if (momentum == T(0)) {
      for (int64_t i = begin; i < end; ++i) {
        T g = Gradient(gradient[i], maximize);
        if (weight_decay != T(0)) g = AddScaled(g, parameter[i], weight_decay);
        parameter[i] = AddScaled(parameter[i], g, minus_lr);
      }
      return;
    }
    for (int64_t i = begin; i < end; ++i) {
      T g = Gradient(gradient[i], maximize);
      if (weight_decay != T(0)) g = AddScaled(g, parameter[i], weight_decay);
      const T b = AddScaled(buffer[i] * momentum, g, new_part);
      buffer[i] = b;
      g = nesterov ? AddScaled(g, b, momentum) : b;
      parameter[i] = AddScaled(parameter[i], g, minus_lr);
    }
  }
};

template <typename T>
struct AdamRule {
  using Element = T;
  T keep, weight_decay, new_part1, beta2, new_part2, root_of_correction2, eps, minus_step_size;
  bool decoupled, decays, amsgrad, maximize;
  explicit AdamRule(const AdamUpdate& u)
      : keep(T(1 - u.lr * u.weight_decay)),
        weight_decay(T(u.weight_decay)),
        new_part1(T(1 - u.beta1)),
        beta2(T(u.beta2)),
        new_part2(T(1 - u.beta2)),
        root_of_correction2(T(std::pow(1 - std::pow(u.beta2, u.step), 0.5))),
        eps(T(u.eps)),
        minus_step_size(T(-(u.lr / (1 - std::pow(u.beta1, u.step))))),
        decoupled(u.decoupled),
        decays(u.weight_decay != 0),
        amsgrad(u.amsgrad),
        maximize(u.maximize) {}
  template <bool kAmsgrad>
  FRAMEJIT_INLINE void RunAs(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    T* __restrict parameter = s.parameter;
    const T* __restrict gradient = s.gradient;
    T* __restrict average = s.state[0];
    T* __restrict square = s.state[1];
    T* __restrict largest = s.state[2];
    for (int64_t i = begin; i < end; ++i) {
      T p = parameter[i];
      T g = Gradient(gradient[i], maximize);
      if (decays && decoupled) p = p * keep;
      if (decays && !decoupled) g = AddScaled(g, p, weight_decay);
      const T m = Lerp(average[i], g, new_part1);
      T v = AddProduct(square[i] * beta2, new_part2, g, g);
      average[i] = m;
      square[i] = v;
      if constexpr (kAmsgrad) {
        v = largest[i] > v || largest[i] != largest[i] ? largest[i] : v;  // torch.maximum: NaN wins
        largest[i] = v;
      }
      const T denominator = std::sqrt(v) / root_of_correction2 + eps;
      parameter[i] = AddQuotient(p, minus_step_size, m, denominator);
    }
  }
  FRAMEJIT_INLINE void Run(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    amsgrad ? RunAs<true>(s, begin, end) : RunAs<false>(s, begin, end);
  }
};

template <typename T>
struct RmspropRule {
  using Element = T;
  T minus_lr, alpha, new_part, eps, weight_decay, momentum;
  bool centered, maximize;
  explicit RmspropRule(const RmspropUpdate& u)
      : minus_lr(T(-u.lr)),
        alpha(T(u.alpha)),
        new_part(T(1 - u.alpha)),
        eps(T(u.eps)),
        weight_decay(T(u.weight_decay)),
        momentum(T(u.momentum)),
        centered(u.centered),
        maximize(u.maximize) {}
  template <bool kCentered, bool kMomentum>
  FRAMEJIT_INLINE void RunAs(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    T* __restrict parameter = s.parameter;
    const T* __restrict gradient = s.gradient;
    T* __restrict square = s.state[0];
    T* __restrict buffer = s.state[1];
    T* __restrict average = s.state[2];
    for (int64_t i = begin; i < end; ++i) {
      const T p = parameter[i];
      T g = Gradient(gradient[i], maximize);
      if (weight_decay != T(0)) g = AddScaled(g, p, weight_decay);
      T v = AddProduct(square[i] * alpha, new_part, g, g);
      square[i] = v;
      if constexpr (kCentered) {
        const T m = Lerp(average[i], g, new_part);
        average[i] = m;
        v = AddProduct(v, T(-1), m, m);
      }
      const T denominator = std::sqrt(v) + eps;
      if constexpr (kMomentum) {
        const T b = AddQuotient(buffer[i] * momentum, T(1), g, denominator);
        buffer[i] = b;
        parameter[i] = AddScaled(p, b, minus_lr);
      } else {
        parameter[i] = AddQuotient(p, minus_lr, g, denominator);
      }
    }
  }
  FRAMEJIT_INLINE void Run(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    if (centered) {
      momentum > T(0) ? RunAs<true, true>(s, begin, end) : RunAs<true, false>(s, begin, end);
    } else {
      momentum > T(0) ? RunAs<false, true>(s, begin, end) : RunAs<false, false>(s, begin, end);
    }
  }
};

template <typename T>
struct AdagradRule {
  using Element = T;
  T minus_rate, eps, weight_decay;
  bool maximize;
  explicit AdagradRule(const AdagradUpdate& u)
      : minus_rate(T(-(u.lr / (1 + (u.step - 1) * u.lr_decay)))),
        eps(T(u.eps)),
        weight_decay(T(u.weight_decay)),
        maximize(u.maximize) {}
  FRAMEJIT_INLINE void Run(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    T* __restrict parameter = s.parameter;
    const T* __restrict gradient = s.gradient;
    T* __restrict sum = s.state[0];
    for (int64_t i = begin; i < end; ++i) {
      T g = Gradient(gradient[i], maximize);
      if (weight_decay != T(0)) g = AddScaled(g, parameter[i], weight_decay);
      const T v = AddProduct(sum[i], T(1), g, g);
      sum[i] = v;
      parameter[i] = AddQuotient(parameter[i], minus_rate, g, std::sqrt(v) + eps);
    }
  }
};

// The same loop for each instruction set.
template <typename Rule>
[[gnu::target("avx512f,avx512vl,avx512dq,avx2,fma")]] void RunAvx512(const Rule& rule,
                                                                     const UpdateStreams<typename Rule::Element>& s,
                                                                     int64_t begin, int64_t end) {
  rule.Run(s, begin, end);
}
template <typename Rule>
[[gnu::target("avx2,fma")]] void RunAvx2(const Rule& rule, const UpdateStreams<typename Rule::Element>& s,
                                         int64_t begin, int64_t end) {
  rule.Run(s, begin, end);
}
template <typename Rule>
void RunPlain(const Rule& rule, const UpdateStreams<typename Rule::Element>& s, int64_t begin, int64_t end) {
  rule.Run(s, begin, end);
}

template <typename Rule>
void RunBest(const Rule& rule, const UpdateStreams<typename Rule::Element>& s, int64_t begin, int64_t end) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                                 __builtin_cpu_supports("avx512dq");
  if (has_avx512) return RunAvx512(rule, s, begin, end);
  if (has_avx2) return RunAvx2(rule, s, begin, end);
  RunPlain(rule, s, begin, end);
}

}  // namespace

#define FRAMEJIT_UPDATE(Kind)                                                                                \
  template <typename T>                                                                                      \
  void Update(const Kind##Update& update, const UpdateStreams<T>& streams, int64_t begin, int64_t end) {     \
    RunBest(Kind##Rule<T>(update), streams, begin, end);                                                     \
  }                                                                                                          \
  template void Update<float>(const Kind##Update&, const UpdateStreams<float>&, int64_t begin, int64_t end); \
  template void Update<double>(const Kind##Update&, const UpdateStreams<double>&, int64_t begin, int64_t end);
FRAMEJIT_UPDATE(Sgd)
FRAMEJIT_UPDATE(Adam)
FRAMEJIT_UPDATE(Rmsprop)
FRAMEJIT_UPDATE(Adagrad)
#undef FRAMEJIT_UPDATE
#undef FRAMEJIT_INLINE

}  // namespace framejit
