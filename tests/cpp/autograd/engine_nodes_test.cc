// Which nodes a backward runs, and in which order.
#include "graph/autograd/engine_nodes.h"

#include <gtest/gtest.h>

#include <limits>

namespace framejit {
namespace {

constexpr uint64_t kLeaf = std::numeric_limits<uint64_t>::max();

// x * x + w, and a second result made of w alone:
//   0: add (root of output 0) -> 1: mul -> 3: x
//                             -> 4: w
//   2: sin (root of output 1) -> 4: w
EngineNodes Example() {
  EngineNodes engine;
  engine.nodes = {
      {.sequence = 3, .next = {1, 4}},
      {.sequence = 1, .next = {3, 3}, .frees = true},
      {.sequence = 2, .next = {4}, .frees = true},
      {.sequence = kLeaf, .input = 0},
      {.sequence = kLeaf, .input = 1},
  };
  engine.roots = {0, 2};
  return engine;
}

using Nodes = std::vector<int32_t>;

TEST(EngineNodesTest, LeavesRunAsSoonAsTheyAreReady) {
  EXPECT_EQ(Example().Order(1, {true, true}), (Nodes{0, 4, 1, 3}));
  EXPECT_EQ(Example().Order(2, {true, true}), (Nodes{2, 4}));
}

TEST(EngineNodesTest, ANodeWaitsForAllThatLeadsToIt) {
  EXPECT_EQ(Example().Order(3, {true, true}), (Nodes{0, 2, 4, 1, 3}));
}

TEST(EngineNodesTest, OnlyRootsAndWhatLeadsToTheWantedInputsRun) {
  EXPECT_EQ(Example().Order(1, {true, false}), (Nodes{0, 1, 3}));
  EXPECT_EQ(Example().Order(3, {true, false}), (Nodes{0, 2, 1, 3}));
  EXPECT_EQ(Example().Order(3, {false, true}), (Nodes{0, 2, 4}));
  EXPECT_EQ(Example().Order(1, {false, false}), Nodes{0});
  EXPECT_EQ(Example().Order(0, {true, true}), Nodes{});
}

TEST(EngineNodesTest, AnOutputMayLeadToAnother) {
  EngineNodes engine = Example();
  engine.roots = {0, 1};
  EXPECT_EQ(engine.Order(3, {true, true}), (Nodes{0, 4, 1, 3}));
  EXPECT_EQ(engine.Order(2, {true, true}), (Nodes{1, 3}));
}

TEST(EngineNodesTest, SourcesAndPurposes) {
  const EngineNodes engine = Example();
  EXPECT_EQ(engine.Sources(), (std::vector<OutputMask>{1, 1, 2, 1, 3}));
  const auto purposes = engine.Purposes(70);
  ASSERT_EQ(purposes[0].size(), 2u);
  EXPECT_EQ(purposes[0][0], 3u);
  EXPECT_EQ(purposes[1][0], 1u);
  EXPECT_EQ(purposes[2][0], 2u);
}

TEST(EngineNodesTest, AllOutputs) {
  EXPECT_EQ(AllOutputs(3), 7u);
  EXPECT_EQ(AllOutputs(64), ~OutputMask{0});
}

}  // namespace
}  // namespace framejit
