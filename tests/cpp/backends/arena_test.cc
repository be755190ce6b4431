#include "backends/native/arena.h"

#include <gtest/gtest.h>

namespace framejit::native {
namespace {

TEST(ArenaPlanner, AlignsAndGrows) {
  ArenaPlanner arena;
  EXPECT_EQ(arena.Allocate(1), 0);
  EXPECT_EQ(arena.Allocate(65), 64);
  EXPECT_EQ(arena.size(), 192);
}

TEST(ArenaPlanner, ReusesTheSmallestRangeThatFits) {
  ArenaPlanner arena;
  int64_t large = arena.Allocate(256), gap = arena.Allocate(64), small = arena.Allocate(128);
  int64_t end = arena.Allocate(64);
  arena.Free(large, 256);
  arena.Free(small, 128);
  EXPECT_EQ(arena.Allocate(100), small);
  EXPECT_EQ(arena.Allocate(200), large);
  EXPECT_EQ(arena.size(), end + 64);
  EXPECT_NE(gap, end);
}

TEST(ArenaPlanner, MergesNeighbours) {
  ArenaPlanner arena;
  int64_t a = arena.Allocate(64), b = arena.Allocate(64), c = arena.Allocate(64);
  arena.Allocate(64);
  arena.Free(a, 64);
  arena.Free(c, 64);
  arena.Free(b, 64);
  EXPECT_EQ(arena.Allocate(192), a);
}

TEST(ArenaPlanner, GrowsAFreeRangeAtTheEnd) {
  ArenaPlanner arena;
  int64_t a = arena.Allocate(64);
  arena.Free(a, 64);
  EXPECT_EQ(arena.Allocate(256), a);
  EXPECT_EQ(arena.size(), 256);
}

}  // namespace
}  // namespace framejit::native
