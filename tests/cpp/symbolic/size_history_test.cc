// SizeHistory: which tensors vary, by what earlier recordings read from the same source.
#include "graph/symbolic/size_history.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "tests/cpp/support/embedded_python.h"

namespace framejit {
namespace {

class SizeHistoryTest : public ::testing::Test {
 protected:
  SizeHistoryTest() { EXPECT_TRUE(testing::StartPython()); }
  bool Varies(SizeHistory& history, std::initializer_list<int64_t> sizes, int argument = 0, bool is_parameter = false) {
    const SourceId source = sources_.Intern(SourceKind::kArgument, kNoSource, nullptr, argument);
    return history.Varies(sources_, source, at::zeros(sizes), is_parameter);
  }
  SourceTable sources_;
};

TEST_F(SizeHistoryTest, VariesFromTheSecondSizesOn) {
  SizeHistory history;
  EXPECT_FALSE(Varies(history, {2, 3}));
  EXPECT_FALSE(Varies(history, {2, 3}));
  EXPECT_TRUE(Varies(history, {2, 4}));
  EXPECT_TRUE(Varies(history, {2, 4}));
  EXPECT_TRUE(Varies(history, {2, 3}));
}

TEST_F(SizeHistoryTest, SourcesAreApart) {
  SizeHistory history;
  EXPECT_FALSE(Varies(history, {2}, 0));
  EXPECT_FALSE(Varies(history, {3}, 1));
  EXPECT_TRUE(Varies(history, {4}, 0));
  EXPECT_FALSE(Varies(history, {3}, 1));
}

TEST_F(SizeHistoryTest, AnotherRankIsAnotherTensor) {
  SizeHistory history;
  EXPECT_FALSE(Varies(history, {2, 3}));
  EXPECT_FALSE(Varies(history, {6}));
  EXPECT_TRUE(Varies(history, {7}));
}

TEST_F(SizeHistoryTest, TensorsWithoutSizesNeverVary) {
  SizeHistory history(DynamicMode::kAlways);
  EXPECT_FALSE(Varies(history, {}));
}

TEST_F(SizeHistoryTest, Modes) {
  SizeHistory always(DynamicMode::kAlways), never(DynamicMode::kNever);
  EXPECT_TRUE(Varies(always, {2}));
  EXPECT_FALSE(Varies(always, {2}, 1, /*is_parameter=*/true));
  EXPECT_FALSE(Varies(never, {2}));
  EXPECT_FALSE(Varies(never, {3}));
}

TEST_F(SizeHistoryTest, GivesUpAfterSomeRefusals) {
  SizeHistory history;
  EXPECT_FALSE(Varies(history, {2}));
  EXPECT_TRUE(Varies(history, {3}));
  history.Refuse();
  history.Refuse();
  EXPECT_TRUE(Varies(history, {4}));
  history.Refuse();
  EXPECT_FALSE(Varies(history, {5}));
}

}  // namespace
}  // namespace framejit
