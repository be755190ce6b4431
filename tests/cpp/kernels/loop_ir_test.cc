// The loop IR's text form, verifier, schedule and canonicalization. Golden files: tests/filetests/loop/*.loop, each
//   # run: canonicalize | schedule | verify
//   <kernel text>
//   # expect:
//   # <expected lines>
// FRAMEJIT_BLESS=1 rewrites the expectations.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "backends/loop/builder.h"
#include "backends/loop/canonicalize.h"
#include "backends/loop/open.h"
#include "backends/loop/schedule.h"

namespace framejit::loop {
namespace {

std::string Names(const std::vector<ValueId>& ids) {
  return absl::StrJoin(ids, " ", [](std::string* out, ValueId id) { absl::StrAppend(out, "v", id); });
}

std::string ScheduleText(const Kernel& kernel) {
  std::string out;
  const Schedule schedule = MakeSchedule(kernel, 1 << 16);
  for (size_t i = 0; i < schedule.passes.size(); ++i) {
    const Pass& pass = schedule.passes[i];
    absl::StrAppend(&out, "pass ", i, "\n  row: ", Names(pass.row_nodes), "\n  reload: ", Names(pass.reloaded),
                    "\n  elements: ", Names(pass.elements), "\n  keep: ", Names(pass.kept), "\n");
  }
  return out;
}

std::string RunCommand(const std::string& command, const std::string& text) {
  absl::StatusOr<Kernel> kernel = Parse(text);
  if (!kernel.ok()) {
    const std::string message(kernel.status().message());
    return message.substr(0, message.find('\n')) + "\n";
  }
  if (command == "canonicalize") Canonicalize(*kernel);
  if (command == "schedule") return ScheduleText(*kernel);
  return Print(*kernel);
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
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
  const std::string content = ReadFile(path);
  const std::string run = "# run: ", expect = "# expect:\n";
  const size_t line_end = content.find('\n');
  const size_t expectation = content.find(expect);
  ASSERT_EQ(content.rfind(run, 0), 0u);
  ASSERT_NE(expectation, std::string::npos);
  const std::string command = content.substr(run.size(), line_end - run.size());
  const std::string input = content.substr(line_end, expectation - line_end);
  const std::string got = Commented(RunCommand(command, input));
  if (std::getenv("FRAMEJIT_BLESS") != nullptr) {
    std::ofstream(path) << content.substr(0, expectation + expect.size()) << got;
    return;
  }
  EXPECT_EQ(got, content.substr(expectation + expect.size()));
}

TEST(LoopFiletest, EveryFile) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(FRAMEJIT_FILETESTS)) {
    if (entry.path().extension() != ".loop") continue;
    CheckFile(entry.path());
    ++files;
  }
  EXPECT_GE(files, 5);
}

TEST(LoopTextTest, PrintsAndParsesBack) {
  KernelBuilder b({2, 3, 5});
  const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(DType::kBFloat16), {15, 5, 1}, 7);
  const ValueId y = b.Load(b.AddInput(DType::kFloat64), {0, -1, 2}, 4);
  const ValueId c = b.Const(DType::kFloat64, 0.1);
  const ValueId z = b.Select(b.Binary(Op::kLt, y, c), b.Cast(DType::kFloat64, x), b.Const(DType::kFloat64, -INFINITY));
  b.Store(b.AddOutput(DType::kFloat16), {15, 5, 1}, z);
  b.Store(b.AddOutput(DType::kFloat64), {3, 1, 0}, b.Reduce(Op::kReduceSum, z));
  b.Store(b.AddOutput(DType::kInt64), {15, 5, 1}, b.Binary(Op::kAdd, b.Index(1), b.ConstInt(DType::kInt64, -9)));
  const auto kernel = std::move(b).Finish();
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  const std::string text = Print(*kernel);
  const auto again = Parse(text);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Print(*again), text);
}

constexpr char kClosed[] = R"(kernel [6, 7, 768] {
  b0: f32
  b1: f32 out
  v0: f32 = load b0[12; 5376, 768, 1]
  v1: f32 = load b0[0; 0, 768, 1]
  v2: f32 = add v0, v1
  v3: f32 = mul v2, v0
  store b1[0; 768, 4608, 1] v3
}
)";
constexpr char kOpen[] = R"(kernel [p0, p1, 768] {
  b0: f32
  b1: f32 out
  v0: f32 = load b0[p2; p3, p4, 1]
  v1: f32 = load b0[0; 0, p5, 1]
  v2: f32 = add v0, v1
  v3: f32 = mul v2, v0
  store b1[0; p6, p7, 1] v3
}
)";

TEST(OpenTest, OpensPrintsParsesAndCloses) {
  const auto kernel = Parse(kClosed);
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  EXPECT_EQ(ParameterCount(*kernel), 0);
  const OpenedKernel opened = Open(*kernel, {{{true, true}, {true, true}, {false, false}}, true});
  EXPECT_EQ(Print(opened.kernel), kOpen);
  EXPECT_EQ(opened.values, std::vector<int64_t>({6, 7, 12, 5376, 768, 768, 768, 4608}));
  const auto again = Parse(kOpen);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Print(*again), kOpen);
  EXPECT_EQ(ParameterCount(*again), 8);
  const auto closed = Close(*again, opened.values);
  ASSERT_TRUE(closed.ok()) << closed.status();
  EXPECT_EQ(Print(*closed), kClosed);
}

TEST(OpenTest, ClosesWithOneValueForEachParameterAlone) {
  const auto open = Parse(kOpen);
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_FALSE(Close(*open, std::vector<int64_t>(7, 1)).ok());
  EXPECT_FALSE(Close(*open, std::vector<int64_t>(9, 1)).ok());
  EXPECT_FALSE(Close(*open, std::vector<int64_t>(8, -1)).ok()) << "sizes are not negative";
}

TEST(OpenTest, ParametersAreNumberedAsTheyStand) {
  for (const char* text :
       {"kernel [p1] { }", "kernel [p0, p0] { }", "kernel [p9999999] { }", "kernel [p-1] { }",
        "kernel [4] { b0: f32 v0: f32 = load b0[p0; p0] }", "kernel [p0] { b0: f32 v0: f32 = load b0[p2; p1] }"}) {
    EXPECT_FALSE(Parse(text).ok()) << text;
  }
}

TEST(BuilderTest, SharesEqualNodesAndKeepsZerosApart) {
  KernelBuilder b({4});
  const int32_t in = b.AddInput(DType::kFloat32);
  EXPECT_EQ(b.Load(in, {1}), b.Load(in, {1}));
  EXPECT_NE(b.Load(in, {1}), b.Load(in, {1}, 1));
  EXPECT_NE(b.Const(DType::kFloat32, 0.0), b.Const(DType::kFloat32, -0.0));
  EXPECT_EQ(b.Binary(Op::kMul, b.Load(in, {1}), b.Const(DType::kFloat32, 1)), b.Load(in, {1}));
}

TEST(BuilderTest, PowersBecomeProducts) {
  KernelBuilder b({4});
  const ValueId x = b.Load(b.AddInput(DType::kFloat32), {1});
  EXPECT_EQ(b.Binary(Op::kPow, x, b.Const(DType::kFloat32, 2)), b.Binary(Op::kMul, x, x));
  EXPECT_EQ(b.Binary(Op::kPow, x, b.Const(DType::kFloat32, 0.5)), b.Unary(Op::kSqrt, x));
}

TEST(BuilderTest, CastsBackToNarrowFloatsAreLeftOut) {
  KernelBuilder b({4});
  const ValueId x = b.Load(b.AddInput(DType::kBFloat16), {1}), wide = b.Cast(DType::kFloat32, x);
  EXPECT_EQ(b.Cast(DType::kBFloat16, wide), x);
  EXPECT_NE(b.Cast(DType::kFloat16, wide), x);
  const ValueId rounded = b.Cast(DType::kFloat32, b.Cast(DType::kBFloat16, b.Unary(Op::kExp, wide)));
  EXPECT_NE(b.Unary(Op::kExp, wide), rounded);
  const ValueId integer = b.Load(b.AddInput(DType::kInt32), {1});
  EXPECT_NE(b.Cast(DType::kInt32, b.Cast(DType::kFloat32, integer)), integer);
}

TEST(BuilderTest, ReportsWhatMakesNoSense) {
  KernelBuilder types({4});
  const ValueId x = types.Load(types.AddInput(DType::kFloat32), {1});
  types.Binary(Op::kAdd, x, types.ConstInt(DType::kInt32, 1));
  EXPECT_FALSE(std::move(types).Finish().ok());
  KernelBuilder narrow({4});
  narrow.Unary(Op::kExp, narrow.Load(narrow.AddInput(DType::kBFloat16), {1}));
  EXPECT_FALSE(std::move(narrow).Finish().ok());
  KernelBuilder unknown({4});
  unknown.Unary(Op::kExp, 99);
  EXPECT_FALSE(std::move(unknown).Finish().ok());
  KernelBuilder strides({4, 4});
  strides.Load(strides.AddInput(DType::kFloat32), {1});
  EXPECT_FALSE(std::move(strides).Finish().ok());
  KernelBuilder row({4, 4});
  row.Store(row.AddOutput(DType::kFloat32), {1, 0}, row.Load(row.AddInput(DType::kFloat32), {4, 1}));
  EXPECT_FALSE(std::move(row).Finish().ok());
}

TEST(ParserTest, RejectsBrokenText) {
  for (const char* text :
       {"", "kernel", "kernel [4] {", "kernel [4] { v0: f32 = load b0[0; 1] }", "kernel [4] { b0: f99 }",
        "kernel [4] { b1: f32 }", "kernel [4] { } x", "kernel [4] { v0: f32 = exp v0 }",
        "kernel [4] { v0: f32 = const abc }", "kernel [4] { b0: f32 v0: f32 = load b0[0; 1] store b0[0; 1] v0 }",
        "kernel [99999999999999999999] { }"}) {
    EXPECT_FALSE(Parse(text).ok()) << text;
  }
}

}  // namespace
}  // namespace framejit::loop
