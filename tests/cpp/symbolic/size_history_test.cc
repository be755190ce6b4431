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

TEST_F(SizeHistoryTest, NumbersVaryByTypeAndValue) {
  SizeHistory history;
  const auto varies = [&](PyObject* number, int argument = 0) {
    const PyRef owned = PyRef::Steal(number);
    const SourceId source = sources_.Intern(SourceKind::kArgument, kNoSource, nullptr, argument);
    return history.NumberVaries(sources_, source, owned.get());
  };
  EXPECT_FALSE(varies(PyLong_FromLong(3)));
  EXPECT_FALSE(varies(PyLong_FromLong(3)));
  EXPECT_FALSE(varies(PyFloat_FromDouble(3.0)));  // another type is another recording
  EXPECT_TRUE(varies(PyFloat_FromDouble(4.0)));
  EXPECT_TRUE(varies(PyFloat_FromDouble(3.0)));
  EXPECT_FALSE(varies(PyFloat_FromDouble(0.0), 1));
  EXPECT_TRUE(varies(PyFloat_FromDouble(-0.0), 1));
  EXPECT_FALSE(varies(PyLong_FromLong(5), 2));
  EXPECT_FALSE(varies(PyLong_FromString("100000000000000000000", nullptr, 10), 2));  // larger than any symbol
  EXPECT_TRUE(varies(PyLong_FromLong(6), 2));
  history.RefuseNumbers();
  EXPECT_FALSE(varies(PyLong_FromLong(7), 2));
}

TEST_F(SizeHistoryTest, MarksVaryAtOnceAndUntilRefused) {
  SizeHistory history(DynamicMode::kNever);
  EXPECT_FALSE(Varies(history, {2, 3}));
  history.Mark(sources_, sources_.Intern(SourceKind::kArgument, kNoSource, nullptr, 0));
  EXPECT_TRUE(Varies(history, {2, 3}));
  EXPECT_FALSE(Varies(history, {2, 3}, 1));
  for (int i = 0; i < 3; ++i) history.Refuse();
  EXPECT_FALSE(Varies(history, {2, 4}));
}

}  // namespace
}  // namespace framejit
