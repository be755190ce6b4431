#include "backends/optimizers/updates.h"

#include <cmath>
#include <type_traits>

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
// kSmall: whether the weight is below a half; torch's formula depends on it.
template <bool kSmall, typename T>
FRAMEJIT_INLINE T Lerp(T a, T b, T weight) {
  return kSmall ? std::fma(weight, b - a, a) : std::fma(weight - T(1), b - a, b);
}

// Calls f(constant) with the flag as a constant, so that the loops have no branches and can be vectorized.
template <typename F>
FRAMEJIT_INLINE void WithConstant(bool flag, const F& f) {
  flag ? f(std::true_type()) : f(std::false_type());
}
#define FRAMEJIT_INLINE_LAMBDA __attribute__((always_inline))

// Each rule: the numbers of an update in the elements' type, as torch casts them, and what it does to one element.
// The streams share no memory, which the compiler has to be told.
template <typename T>
struct SgdRule {
  using Element = T;
  T sign, minus_lr, momentum, new_part, weight_decay;
  bool nesterov;
  explicit SgdRule(const SgdUpdate& u)
      : sign(u.maximize ? T(-1) : T(1)),
        minus_lr(T(-u.lr)),
        momentum(T(u.momentum)),
        new_part(T(1 - u.dampening)),
        weight_decay(T(u.weight_decay)),
        nesterov(u.nesterov) {}
  template <bool kDecay, bool kMomentum, bool kNesterov>
  FRAMEJIT_INLINE void RunAs(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    T* parameter = s.parameter;
    const T* gradient = s.gradient;
    T* buffer = s.state[0];
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const T p = parameter[i];
      T g = gradient[i] * sign;
      if constexpr (kDecay) g = AddScaled(g, p, weight_decay);
      if constexpr (kMomentum) {
        const T b = AddScaled(buffer[i] * momentum, g, new_part);
        buffer[i] = b;
        g = kNesterov ? AddScaled(g, b, momentum) : b;
      }
      parameter[i] = AddScaled(p, g, minus_lr);
    }
  }
  FRAMEJIT_INLINE void Run(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    WithConstant(weight_decay != T(0), [&](auto decay) FRAMEJIT_INLINE_LAMBDA {
      WithConstant(nesterov, [&](auto nests) FRAMEJIT_INLINE_LAMBDA {
        momentum != T(0) ? RunAs<decay, true, nests>(s, begin, end) : RunAs<decay, false, false>(s, begin, end);
      });
    });
  }
};

template <typename T>
struct AdamRule {
  using Element = T;
  T sign, keep, weight_decay, new_part1, beta2, new_part2, root_of_correction2, eps, minus_step_size;
  bool adds_decay, amsgrad;
  explicit AdamRule(const AdamUpdate& u)
      : sign(u.maximize ? T(-1) : T(1)),
        keep(u.decoupled ? T(1 - u.lr * u.weight_decay) : T(1)),
        weight_decay(T(u.weight_decay)),
        new_part1(T(1 - u.beta1)),
        beta2(T(u.beta2)),
        new_part2(T(1 - u.beta2)),
        root_of_correction2(T(std::pow(1 - std::pow(u.beta2, u.step), 0.5))),
        eps(T(u.eps)),
        minus_step_size(T(-(u.lr / (1 - std::pow(u.beta1, u.step))))),
        adds_decay(u.weight_decay != 0 && !u.decoupled),
        amsgrad(u.amsgrad) {}
  template <bool kAmsgrad, bool kDecay, bool kSmall>
  FRAMEJIT_INLINE void RunAs(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    T* parameter = s.parameter;
    const T* gradient = s.gradient;
    T* average = s.state[0];
    T* square = s.state[1];
    T* largest = s.state[2];
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const T p = parameter[i] * keep;
      T g = gradient[i] * sign;
      if constexpr (kDecay) g = AddScaled(g, p, weight_decay);
      const T m = Lerp<kSmall>(average[i], g, new_part1);
      T v = AddProduct(square[i] * beta2, new_part2, g, g);
      average[i] = m;
      square[i] = v;
      if constexpr (kAmsgrad) {
        const T before = largest[i];
        v = (before > v) | (before != before) ? before : v;  // torch.maximum: NaN wins
        largest[i] = v;
      }
      const T denominator = std::sqrt(v) / root_of_correction2 + eps;
      parameter[i] = AddQuotient(p, minus_step_size, m, denominator);
    }
  }
  FRAMEJIT_INLINE void Run(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    WithConstant(amsgrad, [&](auto with_largest) FRAMEJIT_INLINE_LAMBDA {
      WithConstant(adds_decay, [&](auto decay) FRAMEJIT_INLINE_LAMBDA {
        WithConstant(std::abs(new_part1) < T(0.5),
                     [&](auto small) FRAMEJIT_INLINE_LAMBDA { RunAs<with_largest, decay, small>(s, begin, end); });
      });
    });
  }
};

template <typename T>
struct RmspropRule {
  using Element = T;
  T sign, minus_lr, alpha, new_part, eps, weight_decay, momentum;
  bool centered;
  explicit RmspropRule(const RmspropUpdate& u)
      : sign(u.maximize ? T(-1) : T(1)),
        minus_lr(T(-u.lr)),
        alpha(T(u.alpha)),
        new_part(T(1 - u.alpha)),
        eps(T(u.eps)),
        weight_decay(T(u.weight_decay)),
        momentum(T(u.momentum)),
        centered(u.centered) {}
  template <bool kCentered, bool kMomentum, bool kDecay, bool kSmall>
  FRAMEJIT_INLINE void RunAs(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    T* parameter = s.parameter;
    const T* gradient = s.gradient;
    T* square = s.state[0];
    T* buffer = s.state[1];
    T* average = s.state[2];
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const T p = parameter[i];
      T g = gradient[i] * sign;
      if constexpr (kDecay) g = AddScaled(g, p, weight_decay);
      T v = AddProduct(square[i] * alpha, new_part, g, g);
      square[i] = v;
      if constexpr (kCentered) {
        const T m = Lerp<kSmall>(average[i], g, new_part);
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
    WithConstant(centered, [&](auto centers) FRAMEJIT_INLINE_LAMBDA {
      WithConstant(momentum > T(0), [&](auto moves) FRAMEJIT_INLINE_LAMBDA {
        WithConstant(weight_decay != T(0), [&](auto decay) FRAMEJIT_INLINE_LAMBDA {
          WithConstant(std::abs(new_part) < T(0.5),
                       [&](auto small) FRAMEJIT_INLINE_LAMBDA { RunAs<centers, moves, decay, small>(s, begin, end); });
        });
      });
    });
  }
};

template <typename T>
struct AdagradRule {
  using Element = T;
  T sign, minus_rate, eps, weight_decay;
  explicit AdagradRule(const AdagradUpdate& u)
      : sign(u.maximize ? T(-1) : T(1)),
        minus_rate(T(-(u.lr / (1 + (u.step - 1) * u.lr_decay)))),
        eps(T(u.eps)),
        weight_decay(T(u.weight_decay)) {}
  template <bool kDecay>
  FRAMEJIT_INLINE void RunAs(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    T* parameter = s.parameter;
    const T* gradient = s.gradient;
    T* sum = s.state[0];
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const T p = parameter[i];
      T g = gradient[i] * sign;
      if constexpr (kDecay) g = AddScaled(g, p, weight_decay);
      const T v = AddProduct(sum[i], T(1), g, g);
      sum[i] = v;
      parameter[i] = AddQuotient(p, minus_rate, g, std::sqrt(v) + eps);
    }
  }
  FRAMEJIT_INLINE void Run(const UpdateStreams<T>& s, int64_t begin, int64_t end) const {
    WithConstant(weight_decay != T(0), [&](auto decay) FRAMEJIT_INLINE_LAMBDA { RunAs<decay>(s, begin, end); });
  }
};

// The same loop for each instruction set. Rules come by value, so that no store can be to one.
template <typename Rule>
[[gnu::target("avx512f,avx512vl,avx512dq,avx2,fma")]] void RunAvx512(Rule rule,
                                                                     const UpdateStreams<typename Rule::Element>& s,
                                                                     int64_t begin, int64_t end) {
  rule.Run(s, begin, end);
}
template <typename Rule>
[[gnu::target("avx2,fma")]] void RunAvx2(Rule rule, const UpdateStreams<typename Rule::Element>& s, int64_t begin,
                                         int64_t end) {
  rule.Run(s, begin, end);
}
template <typename Rule>
void RunPlain(Rule rule, const UpdateStreams<typename Rule::Element>& s, int64_t begin, int64_t end) {
  rule.Run(s, begin, end);
}

template <typename Rule>
void RunBest(Rule rule, const UpdateStreams<typename Rule::Element>& s, int64_t begin, int64_t end) {
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
#undef FRAMEJIT_INLINE_LAMBDA
#undef FRAMEJIT_INLINE

}  // namespace framejit
