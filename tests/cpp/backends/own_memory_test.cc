#include "backends/native/own_memory.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace framejit::native {
namespace {

constexpr int64_t kMega = int64_t{1} << 20;

// A forward that saves one value per unit, and a backward that takes them from the last one on and returns a gradient
// for each.
std::vector<Lifetime> ForwardAndBackward(int32_t layers, int64_t saved, int64_t gradient) {
  std::vector<Lifetime> values;
  for (int32_t u = 0; u < layers; ++u) {
    values.push_back({u, 2 * layers - 1 - u, saved, false});
    values.push_back({2 * layers - 1 - u, 2 * layers, gradient, true});
  }
  return values;
}

TEST(OwnMemory, SavedValuesMakeRoomForGradients) {
  const std::vector<Lifetime> values = ForwardAndBackward(100, kMega, kMega);
  const std::vector<bool> own = FindOwnMemory(values, 200);
  EXPECT_TRUE(own[0]);        // saved by the first layer
  EXPECT_FALSE(own[1]);       // its gradient is the caller's
  EXPECT_FALSE(own[2 * 95]);  // dies soon
  EXPECT_GT(std::count(own.begin(), own.end(), true), 80);
}

TEST(OwnMemory, NothingWhereThePeakStays) {
  const std::vector<bool> own = FindOwnMemory(ForwardAndBackward(100, kMega, 64), 200);
  EXPECT_EQ(std::count(own.begin(), own.end(), true), 0);
}

TEST(OwnMemory, NothingWhereTheArenaIsSmall) {
  const std::vector<Lifetime> values = ForwardAndBackward(100, 100 << 10, 100 << 10);
  const std::vector<bool> own = FindOwnMemory(values, 200);
  EXPECT_EQ(std::count(own.begin(), own.end(), true), 0);
}

TEST(OwnMemory, NothingForWhatLivesToTheEnd) {
  std::vector<Lifetime> values = ForwardAndBackward(100, kMega, kMega);
  values.push_back({0, 1 << 30, kMega, false});
  EXPECT_FALSE(FindOwnMemory(values, 200).back());
}

}  // namespace
}  // namespace framejit::native
