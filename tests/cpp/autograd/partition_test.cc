// What a partition saves and what its backward computes again, on joint graphs in the printed text form.
#include "graph/autograd/partition.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "graph/parse.h"
#include "graph/passes/analysis.h"
#include "graph/passes/execute.h"
#include "graph/verify.h"

namespace framejit {
namespace {

// Inputs and outputs of the call are the first ones; tangents and gradients follow them. The tangents belong to the
// first outputs, the gradients to `differentiable`.
struct Ends {
  size_t inputs = 1, outputs = 1;
  std::vector<int32_t> differentiable = {0};
};

// "(call -2)" marks what the engine called, "(call -3)" the inside of a checkpoint. A value without @STORAGE has memory
// of its own.
JointGraph Joint(const std::string& text, const Ends& ends) {
  absl::StatusOr<Graph> graph = ParseGraph(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  JointGraph joint;
  joint.graph = *std::move(graph);
  int32_t storage = 1000;
  for (TensorMeta& meta : joint.graph.values) {
    if (meta.storage < 0) meta.storage = storage++;
  }
  EXPECT_EQ(Verify(joint.graph), absl::OkStatus());
  joint.input_count = ends.inputs;
  joint.output_count = ends.outputs;
  joint.differentiable_inputs = ends.differentiable;
  const size_t tangents = joint.graph.inputs.size() - ends.inputs;
  for (size_t i = 0; i < tangents; ++i) joint.differentiable_outputs.push_back(static_cast<int32_t>(i));
  BackwardSection& all = joint.sections.emplace_back();
  all.tangents = (OutputMask{1} << tangents) - 1;
  for (size_t i = 0; i < ends.differentiable.size(); ++i) {
    all.gradients.push_back(static_cast<int32_t>(ends.outputs + i));
  }
  return joint;
}

Partition Parted(JointGraph joint) {
  absl::StatusOr<Partition> partition = MakePartition(std::move(joint));
  EXPECT_TRUE(partition.ok()) << partition.status();
  if (!partition.ok()) return {};
  EXPECT_EQ(Verify(partition->forward), absl::OkStatus());
  return *std::move(partition);
}

Partition Parted(const std::string& text, const Ends& ends = {}) { return Parted(Joint(text, ends)); }

std::string WhyNot(const std::string& text, const Ends& ends = {}) {
  return std::string(MakePartition(Joint(text, ends)).status().message());
}

// "input %0, result %3, %5"
std::string Saved(const Partition& partition) {
  std::vector<std::string> names;
  for (const SavedValue& saved : partition.saved) {
    const char* kind = saved.kind == SavedValue::Kind::kInput ? "input " : "";
    if (saved.kind == SavedValue::Kind::kOutput) kind = "result ";
    names.push_back(absl::StrCat(kind, "%", saved.value));
  }
  return absl::StrJoin(names, ", ");
}

std::string Operators(const Graph& graph) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes) names.push_back(OperatorName(node.op).substr(std::string("aten::").size()));
  return absl::StrJoin(names, " ");
}

BackwardGraph Backward(const Partition& partition, size_t section = 0, std::vector<bool> wanted = {}) {
  if (wanted.empty()) wanted.assign(partition.joint.differentiable_inputs.size(), true);
  BackwardGraph backward = ExtractBackward(partition, section, wanted);
  EXPECT_EQ(Verify(backward.graph), absl::OkStatus());
  return backward;
}

TEST(Partition, SavesWhatAMatmulReads) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[4, 6] @1
    input %2: float32[6, 2] @2
    input %3: float32[8, 2]
    %4: float32[8, 6] = aten::mm(%0, %1)
    %5: float32[8, 6] @5 = aten::tanh(%4)
    %6: float32[8, 2] = aten::mm(%5, %2)
    %7: float32[6, 8] strides=[1, 6] @5 = aten::t(%5)  # at (call -2)
    %8: float32[6, 2] = aten::mm(%7, %3)  # at (call -2)
    %9: float32[2, 6] strides=[1, 2] @2 = aten::t(%2)  # at (call -2)
    %10: float32[8, 6] = aten::mm(%3, %9)  # at (call -2)
    %11: float32[8, 6] = aten::tanh_backward(%10, %5)  # at (call -2)
    %12: float32[6, 4] strides=[1, 6] @1 = aten::t(%1)  # at (call -2)
    %13: float32[8, 4] = aten::mm(%11, %12)  # at (call -2)
    return %6, %13, %8)",
                                     {.inputs = 3, .outputs = 1, .differentiable = {0, 2}});
  // The tangent of tanh is made of the result that the matmul needs; views are made again over what they look at.
  EXPECT_EQ(Saved(partition), "input %1, input %2, %5");
  EXPECT_EQ(Operators(partition.forward), "mm tanh mm");
  EXPECT_EQ(Operators(Backward(partition).graph), "t mm t mm tanh_backward t mm");
}

TEST(Partition, ComputesPointwiseResultsAgain) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[4, 6] @1
    input %2: float32[8, 6]
    %3: float32[8, 6] = aten::mm(%0, %1)
    %4: float32[8, 6] = aten::exp(%3)
    %5: float32[8, 6] = aten::sigmoid(%4)
    %6: float32[8, 6] = aten::mul.Tensor(%4, %5)
    %7: float32[8, 6] = aten::mul.Tensor(%2, %5)  # at (call -2)
    %8: float32[8, 6] = aten::mul.Tensor(%7, %4)  # at (call -2)
    %9: float32[8, 6] = aten::mul.Tensor(%8, %3)  # at (call -2)
    %10: float32[6, 4] strides=[1, 6] @1 = aten::t(%1)  # at (call -2)
    %11: float32[8, 4] = aten::mm(%9, %10)  # at (call -2)
    return %6, %11)",
                                     {.inputs = 2});
  EXPECT_EQ(Saved(partition), "input %1, %3") << "one tensor in place of three, and the matmul runs once";
  EXPECT_EQ(Operators(Backward(partition).graph), "exp sigmoid mul.Tensor mul.Tensor mul.Tensor t mm");
}

TEST(Partition, SavesTheNarrowerOfTwoDtypes) {
  const Partition partition = Parted(R"(
    input %0: float16[8, 4]
    input %1: float16[4, 6] @1
    input %2: float32[8, 6]
    %3: float16[8, 6] = aten::mm(%0, %1)
    %4: float32[8, 6] = aten::_to_copy(%3, dtype=float32)
    %5: float32[8, 6] = aten::sigmoid(%4)
    %6: float32[8, 6] = aten::mul.Scalar(%5, 2)
    %7: float32[8, 6] = aten::sigmoid_backward(%2, %5)  # at (call -2)
    %8: float16[8, 6] = aten::_to_copy(%7, dtype=float16)  # at (call -2)
    %9: float16[6, 4] strides=[1, 6] @1 = aten::t(%1)  # at (call -2)
    %10: float16[8, 4] = aten::mm(%8, %9)  # at (call -2)
    return %6, %10)",
                                     {.inputs = 2});
  EXPECT_EQ(Saved(partition), "input %1, %3");
}

TEST(Partition, SavesRowAndColumnInPlaceOfTheirSum) {
  const std::string text = R"(
    input %0: float32[8, 1]
    input %1: float32[1, 6]
    input %2: float32[8, 6]
    %3: float32[8, 1] = aten::sin(%0)
    %4: float32[1, 6] = aten::sin(%1)
    %5: float32[8, 6] = aten::add.Tensor(%3, %4)
    %6: float32[8, 6] = aten::exp(%5)
    %7: float32[8, 6] = aten::mul.Scalar(%6, 2)
    %8: float32[8, 6] = aten::mul.Tensor(%2, %6)  # at (call -2)
    %9: float32[8, 1] = aten::sum.dim_IntList(%8, [1], True)  # at (call -2)
    return %7, %9)";
  EXPECT_EQ(Saved(Parted(text, {.inputs = 2})), "%3, %4") << "14 numbers in place of 48";
}

TEST(Partition, OfEqualSizesSavesWhatIsNearestToTheBackward) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::sin(%0)
    %3: float32[8, 4] = aten::exp(%2)
    %4: float32[8, 4] = aten::neg(%3)
    %5: float32[8, 4] = aten::mul.Tensor(%1, %3)  # at (call -2)
    return %4, %5)");
  EXPECT_EQ(Saved(partition), "%3");
  EXPECT_EQ(Operators(Backward(partition).graph), "mul.Tensor");
}

TEST(Partition, SavesInputsInPlaceOfWhatIsMadeOfThem) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::exp(%0)
    %3: float32[8, 4] = aten::mul.Tensor(%0, %2)
    %4: float32[8, 4] = aten::mul.Tensor(%1, %2)  # at (call -2)
    %5: float32[8, 4] = aten::mul.Tensor(%4, %0)  # at (call -2)
    return %3, %5)");
  EXPECT_EQ(Saved(partition), "input %0") << "eager keeps it in any case";
  EXPECT_EQ(Operators(Backward(partition).graph), "exp mul.Tensor mul.Tensor");
}

TEST(Partition, SavesNoInputThatEagerDoesNot) {
  // A write to the input between forward and backward is no error in eager mode.
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::exp(%0)
    %3: float32[8, 4] = aten::mul.Scalar(%2, 2)
    %4: float32[8, 4] = aten::mul.Tensor(%1, %2)  # at (call -2)
    return %3, %4)");
  EXPECT_EQ(Saved(partition), "%2");
}

TEST(Partition, SavesNoResultThatEagerDoesNot) {
  // %2 is a result that the backward does not read: it may be written, and so %3 cannot be made of it again.
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::sin(%0)
    %3: float32[8, 4] = aten::exp(%2)
    %4: float32[8, 4] = aten::neg(%3)
    %5: float32[8, 4] = aten::mul.Tensor(%1, %3)  # at (call -2)
    return %4, %2, %5)",
                                     {.inputs = 1, .outputs = 2});
  EXPECT_EQ(Saved(partition), "%3");
}

TEST(Partition, SavesResultsThatTheBackwardReads) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::exp(%0)
    %3: float32[8, 4] = aten::mul.Tensor(%1, %2)  # at (call -2)
    return %2, %3)");
  EXPECT_EQ(Saved(partition), "result %2");
  EXPECT_EQ(partition.saved[0].index, 0);
  EXPECT_EQ(partition.forward.outputs.size(), 1u);
}

TEST(Partition, NotesIntermediatesInTheMemoryOfResults) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[32]
    %2: float32[8, 4] @2 = aten::exp(%0)
    %3: float32[32] @2 = aten::view(%2, [32])
    %4: float32[8, 4] @4 = aten::view(%1, [8, 4])  # at (call -2)
    %5: float32[8, 4] = aten::mul.Tensor(%4, %2)  # at (call -2)
    return %3, %5)");
  EXPECT_EQ(Saved(partition), "%2");
  EXPECT_EQ(partition.saved[0].shares_output, 0) << "a write to the result is a write to what was saved";
}

TEST(Partition, NeverDrawsRandomNumbersAgain) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::bernoulli.p(%0, 0.5)
    %3: float32[8, 4] = aten::mul.Tensor(%0, %2)
    %4: float32[8, 4] = aten::mul.Tensor(%1, %2)  # at (call -2)
    return %3, %4)");
  EXPECT_EQ(Saved(partition), "%2");
  EXPECT_EQ(Operators(Backward(partition).graph), "mul.Tensor");
}

TEST(Partition, NeverDrawsRandomNumbersAgainInACheckpoint) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::rand_like(%0)  # at (call -3)
    %3: bool[8, 4] = aten::lt.Scalar(%2, 0.5)  # at (call -3)
    %4: float32[8, 4] = aten::mul.Tensor(%0, %3)  # at (call -3)
    %5: float32[8, 4] = aten::neg(%4)
    %6: float32[8, 4] = aten::mul.Tensor(%1, %3)  # at (call -2)
    return %5, %6)");
  EXPECT_EQ(Saved(partition), "%2");
  EXPECT_EQ(Operators(Backward(partition).graph), "lt.Scalar mul.Tensor");
}

TEST(Partition, MakesTheInsideOfACheckpointAgain) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4] @0
    input %1: float32[4, 4] @1
    input %2: float32[8, 4]
    %3: float32[8, 4] @3 = aten::mm(%0, %1)  # at (call -3)
    %4: float32[8, 4] @4 = aten::sin(%3)  # at (call -3)
    %5: float32[8, 4] = aten::mm(%4, %1)  # at (call -3)
    %6: float32[8, 4] = aten::tanh(%5)
    %7: float32[8, 4] = aten::tanh_backward(%2, %6)  # at (call -2)
    %8: float32[4, 8] strides=[1, 4] @4 = aten::t(%4)  # at (call -2)
    %9: float32[4, 4] = aten::mm(%8, %7)  # at (call -2)
    return %6, %9)",
                                     {.inputs = 2, .outputs = 1, .differentiable = {1}});
  EXPECT_EQ(Saved(partition), "input %0, input %1, result %6");
  EXPECT_EQ(Operators(Backward(partition).graph), "tanh_backward mm sin t mm");
}

TEST(Partition, SavesWhatLeavesACheckpoint) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4] @0
    input %1: float32[4, 4] @1
    input %2: float32[4, 4]
    %3: float32[8, 4] @3 = aten::mm(%0, %1)  # at (call -3)
    %4: float32[4, 8] strides=[1, 4] @3 = aten::t(%3)
    %5: float32[4, 4] = aten::mm(%4, %3)
    %6: float32[8, 4] = aten::mm(%3, %2)  # at (call -2)
    return %5, %6)",
                                     {.inputs = 2});
  EXPECT_EQ(Saved(partition), "%3") << "eager has it all the same";
}

TEST(Partition, LeavesToTheBackwardWhatTheEngineComputed) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::sin(%0)
    %3: float32[8, 4] = aten::cos(%0)  # at (call -2)
    %4: float32[8, 4] = aten::mul.Tensor(%1, %3)  # at (call -2)
    return %2, %4)");
  EXPECT_EQ(Saved(partition), "input %0");
  EXPECT_EQ(Operators(partition.forward), "sin");
  EXPECT_EQ(Operators(Backward(partition).graph), "cos mul.Tensor");
}

TEST(Partition, MakesConstantsOfNothingAgain) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    %2: float32[8, 4] = aten::full([8, 4], 3)
    %3: float32[8, 4] = aten::mul.Tensor(%0, %2)
    %4: float32[8, 4] = aten::mul.Tensor(%1, %2)  # at (call -2)
    return %3, %4)");
  EXPECT_EQ(Saved(partition), "");
  EXPECT_EQ(Operators(Backward(partition).graph), "full mul.Tensor");
}

TEST(Partition, KeepsNoRunningStatistics) {
  const Partition partition =
      Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[4]
    input %2: float32[4]
    input %3: float32[4]
    input %4: float32[8, 4]
    %5: float32[8, 4], %6: float32[4], %7: float32[4], %8: float32[4], %9: float32[4])"
             R"( = aten::_native_batch_norm_legit_functional(%0, %1, none, %2, %3, True, 0.1, 1e-05)
    %10: float32[8, 4], %11: float32[4], none)"
             R"( = aten::native_batch_norm_backward(%4, %0, %1, %2, %3, %6, %7, True, 1e-05,)"
             R"( [True, True, False])  # at (call -2)
    mutate %2 <- %8
    mutate %3 <- %9
    return %5, %10, %11)",
             {.inputs = 4, .outputs = 1, .differentiable = {0, 1}});
  EXPECT_EQ(Saved(partition), "input %0, input %1, %6, %7");
  EXPECT_EQ(partition.written_inputs, (std::vector<int32_t>{2, 3}));
}

TEST(Partition, RefusesWritesThatTheBackwardWouldSee) {
  EXPECT_EQ(WhyNot(R"(
    input %0: float32[4]
    input %1: float32[4]
    input %2: float32[4]
    %3: float32[4] = aten::mul.Tensor(%0, %1)
    %4: float32[4] = aten::add.Scalar(%1, 1)
    %5: float32[4] = aten::mul.Tensor(%2, %1)  # at (call -2)
    mutate %1 <- %4
    return %3, %5)",
                   {.inputs = 2}),
            "a result or a gradient depends on an input that is written");
  EXPECT_EQ(WhyNot(R"(
    input %0: float32[4]
    input %1: float32[4]
    input %2: float32[4]
    %3: float32[4] = aten::neg(%0)
    %4: float32[4] = aten::neg(%2)  # at (call -2)
    mutate %1 <- %4
    return %3, %4)",
                   {.inputs = 2}),
            "the backward writes an input");
}

TEST(Partition, CopiesGradientsThatShareMemory) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    input %2: float32[8, 4] @2
    %3: float32[8, 4] = aten::add.Tensor(%0, %1)
    %4: float32[32] @2 = aten::view(%2, [32])  # at (call -2)
    %5: float32[8, 4] @2 = aten::view(%4, [8, 4])  # at (call -2)
    return %3, %2, %5)",
                                     {.inputs = 2, .outputs = 1, .differentiable = {0, 1}});
  EXPECT_EQ(Saved(partition), "");
  EXPECT_EQ(Backward(partition).copied, (std::vector<bool>{false, true}));
}

TEST(Partition, KeepsGradientsThatAreDisjointPartsOfOneTensor) {
  const Partition partition = Parted(R"(
    input %0: float32[4]
    input %1: float32[4]
    input %2: float32[2, 4] @2
    %3: float32[2, 4] = aten::stack([%0, %1])
    %4: float32[4] @2 = aten::select.int(%2, 0, 0)  # at (call -2)
    %5: float32[4] offset=4 @2 = aten::select.int(%2, 0, 1)  # at (call -2)
    return %3, %4, %5)",
                                     {.inputs = 2, .outputs = 1, .differentiable = {0, 1}});
  EXPECT_EQ(Backward(partition).copied, (std::vector<bool>{false, false}));
}

TEST(Partition, TakesOnlyTheGradientsThatAreAskedFor) {
  const Partition partition = Parted(R"(
    input %0: float32[8, 4] @0
    input %1: float32[4, 6] @1
    input %2: float32[8, 6]
    %3: float32[8, 6] = aten::mm(%0, %1)
    %4: float32[4, 8] strides=[1, 4] @0 = aten::t(%0)  # at (call -2)
    %5: float32[4, 6] = aten::mm(%4, %2)  # at (call -2)
    %6: float32[6, 4] strides=[1, 6] @1 = aten::t(%1)  # at (call -2)
    %7: float32[8, 4] = aten::mm(%2, %6)  # at (call -2)
    return %3, %7, %5)",
                                     {.inputs = 2, .outputs = 1, .differentiable = {0, 1}});
  EXPECT_EQ(Saved(partition), "input %0, input %1");
  const BackwardGraph weight = Backward(partition, 0, {false, true});
  EXPECT_EQ(Operators(weight.graph), "t mm");
  EXPECT_EQ(weight.saved, std::vector<int32_t>{0});
  EXPECT_EQ(weight.gradients, (std::vector<int32_t>{-1, 0}));
}

TEST(Partition, BackwardsOfSingleResults) {
  JointGraph joint = Joint(R"(
    input %0: float32[8, 4]
    input %1: float32[8, 4]
    input %2: float32[8, 4]
    input %3: float32[8, 4]
    %4: float32[8, 4] = aten::sin(%0)
    %5: float32[8, 4] = aten::sigmoid(%1)
    %6: float32[8, 4] = aten::cos(%0)  # at (call -2)
    %7: float32[8, 4] = aten::mul.Tensor(%2, %6)  # at (call -2)
    %8: float32[8, 4] = aten::sigmoid_backward(%3, %5)  # at (call -2)
    return %4, %5, %7, %8)",
                           {.inputs = 2, .outputs = 2, .differentiable = {0, 1}});
  joint.sections.push_back({.tangents = 1, .gradients = {2, -1}});
  joint.sections.push_back({.tangents = 2, .gradients = {-1, 3}});
  const Partition partition = Parted(std::move(joint));
  EXPECT_EQ(Saved(partition), "input %0, result %5");
  EXPECT_EQ(partition.saved[0].used_by, 1u);
  EXPECT_EQ(partition.saved[1].used_by, 2u);
  EXPECT_EQ(Operators(Backward(partition, 0).graph), "cos mul.Tensor sigmoid_backward");
  const BackwardGraph first = Backward(partition, 1), second = Backward(partition, 2);
  EXPECT_EQ(Operators(first.graph), "cos mul.Tensor");
  EXPECT_EQ(first.tangents, std::vector<int32_t>{0});
  EXPECT_EQ(Operators(second.graph), "sigmoid_backward");
  EXPECT_EQ(second.tangents, std::vector<int32_t>{1});
  EXPECT_EQ(second.saved, std::vector<int32_t>{1});
}

// Random pointwise programs over what cannot be computed again, whose backward reads some of their values.
class RandomProgram {
 public:
  explicit RandomProgram(unsigned seed) : random_(seed) {
    const int roots = 1 + Draw(3), results = 2 + Draw(6);
    text_ = "input %0: float32[6, 5]\ninput %1: float32[6, 1]\ninput %2: float32[1, 5]\ninput %3: float32[6, 5]\n";
    for (int i = 0; i < roots; ++i) Add("sin", {Draw(3)});
    const int first = 4;
    for (int i = 0; i < results; ++i) {
      const int at = first + Draw(static_cast<int>(sizes_.size()) - first);
      const int with = first + Draw(static_cast<int>(sizes_.size()) - first);
      Draw(2) == 0 ? Add("sigmoid", {at}) : Add("mul.Tensor", {at, with});
    }
    const int last = static_cast<int>(sizes_.size()) - 1;
    const int output = Add("sin", {last});
    int gradient = 3;
    for (int id = first; id <= last; ++id) {
      if (Draw(2) == 0 && id != last) continue;
      read_.push_back(id);
      gradient = Add("mul.Tensor", {gradient, id}, "  # at (call -2)");
    }
    absl::StrAppend(&text_, "return %", output, ", %", gradient);
    first_ = first;
    recomputable_from_ = first + roots;
    last_ = last;
  }

  const std::string& text() const { return text_; }
  int64_t BytesOf(ValueId id) const { return sizes_[id].first * sizes_[id].second * 4; }

  // Of all subsets of the values that suffice to compute what the backward reads, the bytes of the smallest.
  int64_t FewestBytes() const {
    const int count = last_ - first_ + 1;
    std::optional<int64_t> best;
    for (uint32_t subset = 0; subset < (1u << count); ++subset) {
      std::vector<bool> known(static_cast<size_t>(last_) + 1, false);
      int64_t bytes = 0;
      for (int id = first_; id <= last_; ++id) {
        const bool saved = (subset >> (id - first_) & 1) != 0;
        if (saved) bytes += BytesOf(id);
        known[id] = saved || (id >= recomputable_from_ && std::all_of(operands_[id].begin(), operands_[id].end(),
                                                                      [&](int operand) { return known[operand]; }));
      }
      if (std::all_of(read_.begin(), read_.end(), [&](int id) { return known[id]; }) && (!best || bytes < *best))
        best = bytes;
    }
    return *best;
  }

 private:
  int Draw(int limit) { return static_cast<int>(random_() % static_cast<unsigned>(limit)); }

  int Add(const char* op, std::vector<int> operands, const char* end = "") {
    std::pair<int, int> size{1, 1};
    std::vector<std::string> names;
    for (int operand : operands) {
      size = {std::max(size.first, sizes_[operand].first), std::max(size.second, sizes_[operand].second)};
      names.push_back(absl::StrCat("%", operand));
    }
    const int id = static_cast<int>(sizes_.size());
    absl::StrAppend(&text_, "%", id, ": float32[", size.first, ", ", size.second, "] = aten::", op, "(",
                    absl::StrJoin(names, ", "), ")", end, "\n");
    sizes_.push_back(size);
    operands_.push_back(std::move(operands));
    return id;
  }

  std::mt19937 random_;
  std::string text_;
  std::vector<std::pair<int, int>> sizes_ = {{6, 5}, {6, 1}, {1, 5}, {6, 5}};
  std::vector<std::vector<int>> operands_ = {{}, {}, {}, {}};
  std::vector<int> read_;  // by the backward
  int first_ = 0, recomputable_from_ = 0, last_ = 0;
};

std::vector<at::Tensor> OutputsOf(const Graph& graph, const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> values(graph.values.size());
  for (size_t i = 0; i < inputs.size(); ++i) values[graph.inputs[i]] = inputs[i];
  for (const Node& node : graph.nodes) {
    values[node.outputs[0]] = Execute(node, [&](ValueId id) { return values[id]; }).at(0).toTensor();
  }
  std::vector<at::Tensor> outputs;
  for (ValueId id : graph.outputs) outputs.push_back(values[id]);
  return outputs;
}

TEST(Partition, RandomProgramsSaveTheFewestBytesAndGiveTheSameGradients) {
  at::manual_seed(0);
  const std::vector<at::Tensor> inputs = {at::randn({6, 5}), at::randn({6, 1}), at::randn({1, 5})};
  const at::Tensor tangent = at::randn({6, 5});
  int computed_again = 0;
  for (unsigned seed = 0; seed < 150; ++seed) {
    const RandomProgram program(seed);
    SCOPED_TRACE(program.text());
    const Partition partition = Parted(program.text(), {.inputs = 3});
    int64_t bytes = 0;
    for (const SavedValue& saved : partition.saved) bytes += program.BytesOf(saved.value);
    EXPECT_EQ(bytes, program.FewestBytes());

    const BackwardGraph backward = Backward(partition);
    std::vector<at::Tensor> joint_inputs = inputs, given;
    joint_inputs.push_back(tangent);
    const std::vector<at::Tensor> expected = OutputsOf(partition.joint.graph, joint_inputs);
    const std::vector<at::Tensor> forward = OutputsOf(partition.forward, inputs);
    for (int32_t saved : backward.saved) given.push_back(forward[partition.saved[saved].index]);
    given.push_back(tangent);
    EXPECT_TRUE(at::equal(forward[0], expected[0]));
    EXPECT_TRUE(at::equal(OutputsOf(backward.graph, given)[0], expected[1]));
    computed_again += std::any_of(backward.graph.nodes.begin(), backward.graph.nodes.end(),
                                  [](const Node& node) { return node.torch_call != kBackwardCall; });
  }
  EXPECT_GT(computed_again, 20);
}

}  // namespace
}  // namespace framejit
