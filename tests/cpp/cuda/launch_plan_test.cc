// Launch plans and generated source. Golden files: tests/filetests/cuda/*.loop, in the form of loop_ir_test.cc:
//   # run: plan | source
//   <kernel text>
//   # expect:
//   # <the plan; with `source`, what is generated behind the prelude as well>
// FRAMEJIT_BLESS=1 rewrites the expectations.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "backends/cuda/codegen/source.h"
#include "backends/loop/builder.h"

namespace framejit::cuda {
namespace {

using loop::DType;
using loop::Kernel;
using loop::KernelBuilder;
using loop::Op;

std::string RunCommand(const std::string& command, const std::string& text) {
  absl::StatusOr<Kernel> kernel = loop::Parse(text);
  if (!kernel.ok()) return std::string(kernel.status().message()) + "\n";
  Canonicalize(*kernel);
  const LaunchPlan plan = PlanLaunch(*kernel);
  std::string out = Print(plan) + "\n";
  if (command == "source") {
    const std::string source = GenerateSource(*kernel, plan).text;
    out += source.substr(source.find(" Offset;") + 10);
  }
  return out;
}

std::string Commented(const std::string& text) {
  std::string out;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    std::string with_mark = absl::StrCat("# ", line);
    with_mark.erase(with_mark.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, with_mark, "\n");
  }
  return out;
}

void CheckFile(const std::filesystem::path& path) {
  SCOPED_TRACE(path.filename().string());
  std::ifstream in(path);
  std::stringstream whole;
  whole << in.rdbuf();
  const std::string content = whole.str(), run = "# run: ", expect = "# expect:\n";
  const size_t line_end = content.find('\n'), expectation = content.find(expect);
  ASSERT_EQ(content.rfind(run, 0), 0u);
  ASSERT_NE(expectation, std::string::npos);
  const std::string command = content.substr(run.size(), line_end - run.size());
  const std::string got = Commented(RunCommand(command, content.substr(line_end, expectation - line_end)));
  if (std::getenv("FRAMEJIT_BLESS") != nullptr) {
    std::ofstream(path) << content.substr(0, expectation + expect.size()) << got;
    return;
  }
  EXPECT_EQ(got, content.substr(expectation + expect.size()));
}

TEST(CudaFiletest, EveryFile) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(FRAMEJIT_FILETESTS)) {
    if (entry.path().extension() != ".loop") continue;
    CheckFile(entry.path());
    ++files;
  }
  EXPECT_GE(files, 8);
}

Kernel Copy(std::vector<int64_t> sizes, std::vector<int64_t> from, DType dtype = DType::kFloat32, int64_t offset = 0) {
  KernelBuilder b(sizes);
  std::vector<int64_t> to(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) to[d - 1] = to[d] * sizes[d];
  const loop::ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(dtype), std::move(from), offset);
  b.Store(b.AddOutput(dtype), to, b.Unary(Op::kNeg, x));
  Kernel kernel = *std::move(b).Finish();
  Canonicalize(kernel);
  return kernel;
}

TEST(LaunchPlanTest, VectorsAreSixteenBytesOfTheNarrowestType) {
  EXPECT_EQ(PlanLaunch(Copy({4096}, {1})).vector, 4);
  EXPECT_EQ(PlanLaunch(Copy({4096}, {1}, DType::kBFloat16)).vector, 8);
  EXPECT_EQ(PlanLaunch(Copy({4096}, {1}, DType::kInt8)).vector, 16);
  EXPECT_EQ(PlanLaunch(Copy({4096}, {2})).vector, 4) << "the store is contiguous";
}

TEST(LaunchPlanTest, AlignmentIsAskedOfWhatVectorsTouch) {
  const Kernel aligned = Copy({64, 64}, {128, 1}), shifted = Copy({64, 64}, {65, 1});
  EXPECT_EQ(PlanLaunch(aligned).AlignmentOf(aligned, 0), 16);
  EXPECT_EQ(PlanLaunch(shifted).AlignmentOf(shifted, 0), 4);
  EXPECT_EQ(PlanLaunch(shifted).AlignmentOf(shifted, 1), 16);
  EXPECT_EQ(PlanLaunch(aligned, 1).AlignmentOf(aligned, 0), 4);
  const Kernel offset = Copy({64}, {1}, DType::kFloat32, 1);
  EXPECT_EQ(PlanLaunch(offset).AlignmentOf(offset, 0), 4);
}

TEST(LaunchPlanTest, LargeTensorsHaveWideOffsets) {
  EXPECT_FALSE(PlanLaunch(Copy({1 << 20}, {1})).wide_index);
  EXPECT_TRUE(PlanLaunch(Copy({int64_t{1} << 31}, {1})).wide_index);
  EXPECT_TRUE(PlanLaunch(Copy({4, 4}, {int64_t{1} << 30, 1})).wide_index);
  EXPECT_TRUE(PlanLaunch(Copy({16}, {1}, DType::kFloat32, int64_t{1} << 31)).wide_index);
}

TEST(LaunchPlanTest, ChangesToTryGivePlansThatDiffer) {
  KernelBuilder softmax({64, 1024});
  const loop::ValueId x = softmax.Load(softmax.AddInput(DType::kFloat32), {1024, 1});
  softmax.Store(softmax.AddOutput(DType::kFloat32), {1024, 1},
                softmax.Binary(Op::kSub, x, softmax.Reduce(Op::kReduceMax, x)));
  const std::vector<std::pair<Kernel, size_t>> kernels = {{Copy({1 << 22}, {1}), 9},
                                                          {Copy({1024, 1024}, {1, 1024}), 6},
                                                          {*std::move(softmax).Finish(), 3}};
  for (const auto& [kernel, count] : kernels) {
    const std::vector<PlanChange> changes = ChangesToTry(kernel);
    EXPECT_EQ(changes.size(), count) << Print(PlanLaunch(kernel));
    EXPECT_EQ(Print(PlanLaunch(kernel, 16, changes[0])), Print(PlanLaunch(kernel)));
    absl::flat_hash_set<std::string> plans;
    for (const PlanChange& change : changes) {
      const LaunchPlan plan = PlanLaunch(kernel, 16, change);
      EXPECT_TRUE(plans.insert(Print(plan)).second) << Print(plan);
      EXPECT_EQ(plan.spread, PlanLaunch(kernel).spread);
      EXPECT_GE(plan.threads, 32) << Print(plan);
      EXPECT_LE(plan.threads, 1024) << Print(plan);
    }
  }
}

TEST(LaunchPlanTest, NothingToDoIsNoBlock) { EXPECT_EQ(PlanLaunch(Copy({0}, {1})).blocks, 0); }

}  // namespace
}  // namespace framejit::cuda
