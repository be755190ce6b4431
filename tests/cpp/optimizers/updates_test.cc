// Each update against the same formula in long double, over lengths that no vector divides and over parts of a range.
#include "backends/optimizers/updates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace framejit {
namespace {

template <typename T>
struct Memory {
  std::vector<T> parameter, gradient;
  std::array<std::vector<T>, 3> state;

  // The last state is small: as an average it may not exceed the root of the first, an average of squares.
  explicit Memory(int64_t size) {
    for (int64_t i = 0; i < size; ++i) {
      const double x = static_cast<double>(i);
      parameter.push_back(static_cast<T>(std::sin(x) * 2));
      gradient.push_back(static_cast<T>(std::cos(3 * x)));
      for (size_t k = 0; k < 3; ++k)
        state[k].push_back(static_cast<T>((0.5 + 0.25 * std::sin(x + double(k))) / (k == 2 ? 8 : 1)));
    }
  }
  UpdateStreams<T> streams() {
    return {parameter.data(), gradient.data(), {state[0].data(), state[1].data(), state[2].data()}};
  }
};

// One element's values before and after: parameter, then state.
using Values = std::array<long double, 4>;

template <typename T, typename U, typename Formula>
void ExpectFormula(const U& update, const Formula& formula) {
  constexpr int64_t kSize = 53;
  constexpr int64_t kBegin = 3, kMiddle = 20, kEnd = 51;
  const Memory<T> before(kSize);
  Memory<T> after(kSize);
  Update<T>(update, after.streams(), kBegin, kMiddle);
  Update<T>(update, after.streams(), kMiddle, kEnd);
  for (int64_t i = 0; i < kSize; ++i) {
    Values expected{before.parameter[i], before.state[0][i], before.state[1][i], before.state[2][i]};
    if (i >= kBegin && i < kEnd) expected = formula(expected, static_cast<long double>(before.gradient[i]));
    const Values actual{after.parameter[i], after.state[0][i], after.state[1][i], after.state[2][i]};
    for (size_t k = 0; k < expected.size(); ++k) {
      const long double bound = 8 * std::numeric_limits<T>::epsilon() * std::max(1.0L, std::abs(expected[k]));
      EXPECT_NEAR(actual[k], expected[k], bound) << "element " << i << ", value " << k;
    }
  }
}

template <typename T>
class UpdatesTest : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(UpdatesTest, Elements);

TYPED_TEST(UpdatesTest, Sgd) {
  for (double momentum : {0.0, 0.9}) {
    for (double decay : {0.0, 0.1}) {
      for (bool flag : {false, true}) {
        SgdUpdate u{.lr = 0.25, .momentum = momentum, .dampening = 0.5, .weight_decay = decay};
        u.nesterov = flag && momentum != 0;
        u.maximize = flag;
        ExpectFormula<TypeParam>(u, [&](Values v, long double g) {
          g = (flag ? -g : g) + decay * v[0];
          if (momentum != 0) {
            v[1] = v[1] * momentum + 0.5L * g;
            g = flag ? g + momentum * v[1] : v[1];
          }
          v[0] -= 0.25L * g;
          return v;
        });
      }
    }
  }
}

TYPED_TEST(UpdatesTest, Adam) {
  for (double decay : {0.0, 0.1}) {
    for (bool decoupled : {false, true}) {
      for (bool amsgrad : {false, true}) {
        const AdamUpdate u{.lr = 0.125,
                           .beta1 = 0.25,
                           .beta2 = 0.75,
                           .eps = 0.5,
                           .weight_decay = decay,
                           .decoupled = decoupled,
                           .amsgrad = amsgrad,
                           .maximize = amsgrad,
                           .step = 3};
        ExpectFormula<TypeParam>(u, [&](Values v, long double g) {
          if (amsgrad) g = -g;
          if (decoupled) v[0] *= 1 - 0.125L * decay;
          if (!decoupled) g += decay * v[0];
          v[1] = 0.25L * v[1] + 0.75L * g;
          v[2] = 0.75L * v[2] + 0.25L * g * g;
          if (amsgrad) v[3] = std::max(v[3], v[2]);
          const long double root = std::sqrt(1 - std::pow(0.75L, 3));
          const long double size = 0.125L / (1 - std::pow(0.25L, 3));
          v[0] -= size * v[1] / (std::sqrt(amsgrad ? v[3] : v[2]) / root + 0.5L);
          return v;
        });
      }
    }
  }
}

TYPED_TEST(UpdatesTest, Rmsprop) {
  for (double momentum : {0.0, 0.5}) {
    for (bool centered : {false, true}) {
      const RmspropUpdate u{.lr = 0.125,
                            .alpha = 0.5,
                            .eps = 0.25,
                            .weight_decay = 0.1,
                            .momentum = momentum,
                            .centered = centered,
                            .maximize = centered};
      ExpectFormula<TypeParam>(u, [&](Values v, long double g) {
        g = (centered ? -g : g) + 0.1L * v[0];
        v[1] = 0.5L * v[1] + 0.5L * g * g;
        long double square = v[1];
        if (centered) {
          v[3] = 0.5L * v[3] + 0.5L * g;
          square -= v[3] * v[3];
        }
        const long double denominator = std::sqrt(square) + 0.25L;
        if (momentum > 0) {
          v[2] = 0.5L * v[2] + g / denominator;
          v[0] -= 0.125L * v[2];
        } else {
          v[0] -= 0.125L * g / denominator;
        }
        return v;
      });
    }
  }
}

TYPED_TEST(UpdatesTest, Adagrad) {
  for (bool maximize : {false, true}) {
    const AdagradUpdate u{
        .lr = 0.5, .lr_decay = 0.25, .eps = 0.125, .weight_decay = 0.1, .maximize = maximize, .step = 5};
    ExpectFormula<TypeParam>(u, [&](Values v, long double g) {
      g = (maximize ? -g : g) + 0.1L * v[0];
      v[1] += g * g;
      v[0] -= 0.25L * g / (std::sqrt(v[1]) + 0.125L);
      return v;
    });
  }
}

TEST(UpdatesTest, TheLargestSquareKeepsNan) {
  const AdamUpdate u{.lr = 0.125, .beta1 = 0.25, .beta2 = 0.75, .eps = 0.5, .amsgrad = true, .step = 1};
  Memory<float> memory(4);
  memory.state[2][1] = std::numeric_limits<float>::quiet_NaN();
  memory.gradient[2] = std::numeric_limits<float>::quiet_NaN();
  Update<float>(u, memory.streams(), 0, 4);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(std::isnan(memory.state[2][i]), i == 1 || i == 2) << i;
}

}  // namespace
}  // namespace framejit
