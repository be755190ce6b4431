// Graphs on a GPU as the cuda backend plans them, down to machine code, without a GPU: which operators become kernels,
// which values they may read, and that what they compile to is valid. Running them is tests/python/kernels' matter.
#include "backends/native/plan.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "backends/cuda/codegen/toolchain.h"
#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/cuda_target.h"
#include "backends/cuda/graph_launches.h"
#include "backends/cuda/out_calls.h"
#include "graph/parse.h"

namespace framejit {
namespace {

const native::Target& TargetFor(int architecture) {
  static std::map<int, std::unique_ptr<const native::Target>> targets;
  cuda::SetToolchainOptions({{FRAMEJIT_TEST_NVRTC}, ""});
  auto& target = targets[architecture];
  if (target == nullptr) {
    target = cuda::MakeCompileOnlyTarget(c10::Device(c10::kCUDA, 0), cuda::Architecture{architecture});
  }
  return *target;
}

class CudaPlan : public ::testing::TestWithParam<int> {
 protected:
  std::string Describe(const char* text) const {
    absl::StatusOr<Graph> graph = ParseGraph(text);
    EXPECT_TRUE(graph.ok()) << graph.status();
    if (!graph.ok()) return "";
    auto plan = native::MakePlan(*graph, TargetFor(GetParam()));
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.ok() ? (*plan)->description : "";
  }
};

TEST_P(CudaPlan, PointwiseAndRowsAreKernelsAroundTheLibrarysProduct) {
  const std::string plan = Describe(R"(
input %0: bfloat16[8, 64] device="cuda:0" @0
input %1: bfloat16[64, 64] device="cuda:0" @1
input %2: bfloat16[64] device="cuda:0" @2
%3: bfloat16[8, 64] device="cuda:0" @3 = aten::gelu(%0, "none")
%4: bfloat16[8, 64] device="cuda:0" @4 = aten::addmm(%2, %3, %1, 1, 1)
%5: bfloat16[8, 64] device="cuda:0" @5 = aten::add.Tensor(%4, %0, 1)
%6: bfloat16[8, 1] device="cuda:0" @6 = aten::mean.dim(%5, [1], True, None)
%7: bfloat16[8, 64] device="cuda:0" @7 = aten::sub.Tensor(%5, %6, 1)
return %7
)");
  EXPECT_EQ(plan,
            "kernel gelu: 2048 bytes\n"
            "call into place aten::addmm\n"
            "kernel add.Tensor mean.dim sub.Tensor: 3072 bytes\n"
            "arena: 2048 bytes\n");
}

TEST_P(CudaPlan, AClampByNanAloneIsAtens) {
  const auto describe = [&](const char* bounds) {
    return Describe(absl::StrReplaceAll(R"(
input %0: float16[64] device="cuda:0" @0
%1: float16[64] device="cuda:0" @1 = aten::clamp(%0, BOUNDS)
return %1
)",
                                        {{"BOUNDS", bounds}})
                        .c_str());
  };
  EXPECT_TRUE(absl::StrContains(describe("None, nan"), "call"));
  EXPECT_TRUE(absl::StrContains(describe("nan, None"), "call"));
  EXPECT_TRUE(absl::StrContains(describe("None, 1.5"), "kernel clamp"));
  EXPECT_TRUE(absl::StrContains(describe("nan, 1.5"), "kernel clamp"));
}

TEST_P(CudaPlan, TanhGelusOfSumsAreTheLibrarys) {
  const auto graph = [](const char* type, const char* approximate, const char* results) {
    return absl::StrReplaceAll(R"(
input %0: TYPE[8, 64] device="cuda:0" @0
input %1: TYPE[64, 32] device="cuda:0" @1
input %2: TYPE[32] device="cuda:0" @2
%3: TYPE[8, 32] device="cuda:0" @3 = aten::addmm(%2, %0, %1, 1, 1)
%4: TYPE[2, 4, 32] device="cuda:0" @3 = aten::view(%3, [2, 4, 32])
%5: TYPE[2, 4, 32] device="cuda:0" @5 = aten::gelu(%4, "KIND")
%6: TYPE[2, 4, 32] device="cuda:0" @6 = aten::exp(%5)
return RESULTS
)",
                               {{"TYPE", type}, {"KIND", approximate}, {"RESULTS", results}});
  };
  EXPECT_EQ(Describe(graph("bfloat16", "tanh", "%6").c_str()),
            "call into place aten::_addmm_activation\nkernel exp: 1024 bytes\narena: 512 bytes\n");
  for (const std::string& other :
       {graph("float32", "tanh", "%6"), graph("bfloat16", "none", "%6"), graph("bfloat16", "tanh", "%3, %6"),
        graph("bfloat16", "tanh", "%5"), absl::StrCat("strict\n", graph("bfloat16", "tanh", "%6"))}) {
    EXPECT_FALSE(absl::StrContains(Describe(other.c_str()), "activation")) << other;
  }
}

// As transformers' NewGELUActivation and FastGELUActivation write it, and what looks like it and is not.
TEST_P(CudaPlan, GelusThatAreSpeltOutAreTheLibrarysToo) {
  const std::string head = R"(
input %0: bfloat16[8, 64] device="cuda:0" @0
input %1: bfloat16[64, 32] device="cuda:0" @1
input %2: bfloat16[32] device="cuda:0" @2
%3: bfloat16[8, 32] device="cuda:0" @3 = aten::addmm(%2, %0, %1, 1, 1)
%4: bfloat16[2, 4, 32] device="cuda:0" @3 = aten::view(%3, [2, 4, 32])
%5: bfloat16[2, 4, 32] device="cuda:0" @5 = aten::mul.Scalar(%4, 0.5)
)";
  const auto new_gelu = [&](const char* exponent, const char* factor, const char* results) {
    return head + absl::StrReplaceAll(R"(
%6: bfloat16[2, 4, 32] device="cuda:0" @6 = aten::pow.Tensor_Scalar(%4, EXPONENT)
%7: bfloat16[2, 4, 32] device="cuda:0" @7 = aten::mul.Scalar(%6, FACTOR)
%8: bfloat16[2, 4, 32] device="cuda:0" @8 = aten::add.Tensor(%4, %7, 1)
%9: bfloat16[2, 4, 32] device="cuda:0" @9 = aten::mul.Scalar(%8, 0.7978845608028654)
%10: bfloat16[2, 4, 32] device="cuda:0" @10 = aten::tanh(%9)
%11: bfloat16[2, 4, 32] device="cuda:0" @11 = aten::add.Scalar(%10, 1.0, 1)
%12: bfloat16[2, 4, 32] device="cuda:0" @12 = aten::mul.Tensor(%5, %11)
%13: bfloat16[2, 4, 32] device="cuda:0" @13 = aten::exp(%12)
return RESULTS
)",
                                      {{"EXPONENT", exponent}, {"FACTOR", factor}, {"RESULTS", results}});
  };
  const std::string fast_gelu = head + R"(
%6: bfloat16[2, 4, 32] device="cuda:0" @6 = aten::mul.Scalar(%4, 0.7978845608)
%7: bfloat16[2, 4, 32] device="cuda:0" @7 = aten::mul.Scalar(%4, 0.044715)
%8: bfloat16[2, 4, 32] device="cuda:0" @8 = aten::mul.Tensor(%7, %4)
%9: bfloat16[2, 4, 32] device="cuda:0" @9 = aten::add.Scalar(%8, 1.0, 1)
%10: bfloat16[2, 4, 32] device="cuda:0" @10 = aten::mul.Tensor(%6, %9)
%11: bfloat16[2, 4, 32] device="cuda:0" @11 = aten::tanh(%10)
%12: bfloat16[2, 4, 32] device="cuda:0" @12 = aten::add.Scalar(%11, 1.0, 1)
%13: bfloat16[2, 4, 32] device="cuda:0" @13 = aten::mul.Tensor(%5, %12)
%14: bfloat16[2, 4, 32] device="cuda:0" @14 = aten::exp(%13)
return %14
)";
  const char* const expected = "call into place aten::_addmm_activation\nkernel exp: 1024 bytes\narena: 512 bytes\n";
  EXPECT_EQ(Describe(new_gelu("3.0", "0.044715", "%13").c_str()), expected);
  EXPECT_EQ(Describe(fast_gelu.c_str()), expected);
  for (const std::string& other :
       {new_gelu("2.0", "0.044715", "%13"), new_gelu("3.0", "0.0447", "%13"), new_gelu("3.0", "0.044715", "%10, %13"),
        new_gelu("3.0", "0.044715", "%4, %13"), absl::StrCat("strict", new_gelu("3.0", "0.044715", "%13"))}) {
    EXPECT_FALSE(absl::StrContains(Describe(other.c_str()), "activation")) << other;
  }
}

// Where no 16-byte access fits the rows of a large product, rows that are aligned alike are multiplied together.
TEST(CudaProducts, MisalignedRowsOfLargeOnesAreTakenApart) {
  const auto function_for = [](const char* type, int64_t rows, int64_t columns, const char* mode = "") {
    const std::string text = absl::StrReplaceAll(
        R"(MODE
input %0: TYPE[ROWS, 768] device="cuda:0" @0
input %1: TYPE[768, COLUMNS] strides=[1, 768] device="cuda:0" @1
%2: TYPE[ROWS, COLUMNS] device="cuda:0" @2 = aten::mm(%0, %1)
return %2
)",
        {{"MODE", mode}, {"TYPE", type}, {"ROWS", absl::StrCat(rows)}, {"COLUMNS", absl::StrCat(columns)}});
    absl::StatusOr<Graph> graph = ParseGraph(text);
    EXPECT_TRUE(graph.ok()) << graph.status();
    return graph.ok() ? cuda::FindOutCall(*graph, graph->nodes[0]).function : nullptr;
  };
  const auto plain = function_for("bfloat16", 4096, 50256);
  ASSERT_NE(plain, nullptr);
  for (int64_t columns = 8001; columns < 8008; ++columns) EXPECT_NE(function_for("float16", 4096, columns), plain);
  EXPECT_NE(function_for("bfloat16", 4096, 50257), plain);
  EXPECT_EQ(function_for("bfloat16", 4096, 8008), plain);
  EXPECT_EQ(function_for("float32", 4096, 50257), plain);
  EXPECT_EQ(function_for("bfloat16", 16, 50257), plain);
  EXPECT_EQ(function_for("bfloat16", 4096, 101), plain);
  EXPECT_EQ(function_for("bfloat16", 4096, 50257, "strict"), plain);
}

TEST_P(CudaPlan, ViewsAreMetadata) {
  EXPECT_EQ(Describe(R"(
input %0: float32[6, 4] device="cuda:0" @0
%1: float32[4, 6] strides=[1, 4] device="cuda:0" @0 = aten::t(%0)
%2: float32[4, 6] strides=[1, 4] device="cuda:0" @2 = aten::mul.Scalar(%1, 2)
return %2
)"),
            "kernel mul.Scalar: 192 bytes\narena: 0 bytes\n");
}

TEST_P(CudaPlan, NumbersOnTheCpuAreConstantsAndOtherDevicesAreTorchs) {
  EXPECT_EQ(Describe(R"(
input %0: float32[16] device="cuda:0" @0
constant %1: float64[] @1 wrapped = [2.0]
%2: float32[16] device="cuda:0" @2 = aten::mul.Tensor(%0, %1)
return %2
)"),
            "kernel mul.Tensor: 128 bytes\narena: 0 bytes\n");
  EXPECT_EQ(Describe(R"(
input %0: float32[16] device="cuda:0" @0
input %1: float32[] @1
input %2: float32[16] device="cuda:1" @2
%3: float32[16] device="cuda:0" @3 = aten::mul.Tensor(%0, %1)
%4: float32[16] device="cuda:1" @4 = aten::exp(%2)
%5: float32[] @5 = aten::exp(%1)
return %3, %4, %5
)"),
            "call aten::mul.Tensor\ncall aten::exp\ncall aten::exp\narena: 0 bytes\n");
}

TEST_P(CudaPlan, FewLongRowsAreReducedByManyBlocks) {
  EXPECT_TRUE(absl::StrContains(Describe(R"(
input %0: float32[1048576] device="cuda:0" @0
%1: float32[] device="cuda:0" @1 = aten::sum(%0, None)
return %1
)"),
                                "in 2 parts"));
  EXPECT_TRUE(absl::StrContains(Describe(R"(
input %0: float32[65536, 64] device="cuda:0" @0
%1: float32[64] device="cuda:0" @1 = aten::sum.dim_IntList(%0, [0], False, None)
return %1
)"),
                                "in 2 parts"));
}

// The losses of the rows are a kernel and the check of the targets, whether their number is asked for or not.
TEST_P(CudaPlan, LossesAreSplit) {
  for (const int reduction : {1, 2}) {
    const std::string plan = Describe(absl::StrCat(R"(
input %0: float32[8, 50] device="cuda:0" @0
input %1: int64[8] device="cuda:0" @1
%2: float32[8, 50] device="cuda:0" @2 = aten::mul.Scalar(%0, 2)
%3: float32[8, 50] device="cuda:0" @3 = aten::_log_softmax(%2, 1, False)
[%4: float32[] device="cuda:0" @4, %5: float32[] device="cuda:0" @5] = aten::nll_loss_forward(%3, %1, None, )",
                                                   reduction, ", -100)\nreturn %4\n")
                                          .c_str());
    EXPECT_TRUE(absl::StrContains(plan, "_log_softmax gather")) << plan;
    EXPECT_TRUE(absl::StrContains(plan, "call aten::_assert_async\n")) << plan;
    EXPECT_FALSE(absl::StrContains(plan, "nll_loss")) << plan;
  }
}

std::string WhyNotCapturable(const char* text) {
  absl::StatusOr<Graph> graph = ParseGraph(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  auto plan = native::MakePlan(*graph, TargetFor(90));
  EXPECT_TRUE(plan.ok()) << plan.status();
  return cuda::WhyNotCapturable(**plan);
}

TEST(CudaGraphs, WhatTheDeviceAloneDoesIsCapturable) {
  EXPECT_EQ(WhyNotCapturable(R"(
reduce_overhead
input %0: float32[8, 64] device="cuda:0" @0
constant %1: float64[] @1 wrapped = [2.0]
%2: float32[8, 64] device="cuda:0" @2 = aten::mul.Tensor(%0, %1)
%3: float32[64, 8] strides=[1, 64] device="cuda:0" @2 = aten::t(%2)
%4: float32[8, 8] device="cuda:0" @4 = aten::mm(%2, %3)
%5: float32[8, 8] device="cuda:0" @5 = aten::rand_like(%4)
return %4, %5
)"),
            "");
}

TEST(CudaGraphs, WhatIsElsewhereOrIsWaitedForIsNot) {
  EXPECT_EQ(WhyNotCapturable(R"(
input %0: float32[16] device="cuda:0" @0
input %1: float32[] @1
%2: float32[16] device="cuda:0" @2 = aten::mul.Tensor(%0, %1)
return %2
)"),
            "an input is on cpu");
  EXPECT_EQ(WhyNotCapturable(R"(
input %0: float32[16] device="cuda:0" @0
%1: float32[16] @1 = aten::_to_copy(%0, None, None, device="cpu")
return %1
)"),
            "aten::_to_copy reads or makes what is not on cuda:0");
  EXPECT_EQ(WhyNotCapturable(R"(
input %0: float32[16] device="cuda:0" @0
%1: bool[] device="cuda:0" @1 = aten::equal(%0, %0)
return %1
)"),
            "aten::equal waits for the device");
}

INSTANTIATE_TEST_SUITE_P(Architectures, CudaPlan, ::testing::Values(80, 90));

TEST(CudaBackendTest, RunsOnTheCpuWhatIsThere) {
  absl::StatusOr<Graph> graph =
      ParseGraph("input %0: float32[4] @0\n%1: float32[4] @1 = aten::mul.Scalar(%0, 2)\nreturn %1\n");
  ASSERT_TRUE(graph.ok()) << graph.status();
  CompileRequest request;
  request.graph = &*graph;
  auto compiled = MakeCudaBackend()->Compile(request);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  std::vector<at::Tensor> outputs;
  const at::Tensor x = at::arange(4, at::kFloat);
  (*compiled)->Run({x}, outputs);
  EXPECT_TRUE(at::equal(outputs.at(0), x * 2));
}

// Without a driver, or without NVRTC, a graph on a GPU is still compiled: operator by operator.
TEST(CudaBackendTest, WithoutADriverOperatorsRunOneByOne) {
  if (at::hasCUDA()) GTEST_SKIP() << "there is a GPU";
  absl::StatusOr<Graph> graph = ParseGraph(
      R"(
input %0: float32[4] device="cuda:0" @0
%1: float32[4] device="cuda:0" @1 = aten::mul.Scalar(%0, 2)
return %1
)");
  ASSERT_TRUE(graph.ok()) << graph.status();
  CompileRequest request;
  request.graph = &*graph;
  EXPECT_EQ(cuda::CudaTarget(c10::Device(c10::kCUDA, 0)).status().code(), absl::StatusCode::kUnavailable);
  auto compiled = MakeCudaBackend()->Compile(request);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  EXPECT_FALSE(absl::StrContains((*compiled)->Describe(), "kernel"));
}

}  // namespace
}  // namespace framejit
