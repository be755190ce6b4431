// The error bounds of math.h over all of f32: every 997th value in the normal run, every third with
// FRAMEJIT_LONG_TESTS=1 (all exponents and, over three neighbours, all leading digits).
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernel_harness.h"

namespace framejit::testing {
namespace {

struct FunctionRow {
  Op op;
  double ulps;
  double (*reference)(double);  // f64 is exact enough to judge f32
  double absolute;
};

const FunctionRow kFunctions[] = {
    {Op::kExp, 1.5, [](double x) { return std::exp(x); }, 0},
    {Op::kExpm1, 2, [](double x) { return std::expm1(x); }, 0},
    {Op::kLog, 1.5, [](double x) { return std::log(x); }, 0},
    {Op::kLog1p, 2, [](double x) { return std::log1p(x); }, 0},
    {Op::kTanh, 2, [](double x) { return std::tanh(x); }, 0},
    {Op::kSigmoid, 2.5, [](double x) { return 1 / (1 + std::exp(-x)); }, 3e-39},
    {Op::kErf, 1.5, [](double x) { return std::erf(x); }, 0},
    {Op::kGelu, 6, [](double x) { return x * 0.5 * std::erfc(-x * M_SQRT1_2); }, 4.8e-7},
    {Op::kNormalCdf, 0, [](double x) { return 0.5 * std::erfc(-x * M_SQRT1_2); }, 2.4e-7},
    {Op::kExpNonPositive, 1.5, [](double x) { return std::exp(x > 0 ? 0 : x); }, 1.1756e-38},
    {Op::kSin, 2, [](double x) { return std::sin(x); }, 0},
    {Op::kCos, 2, [](double x) { return std::cos(x); }, 0},
};

class MathTest : public ::testing::TestWithParam<FunctionRow> {};

constexpr int64_t kBlock = 1 << 14;

struct Finding {
  double worst = 0;
  std::string failure;  // empty: all values are within the bound
};

std::string Failure(const FunctionRow& row, float x, float y, double exact, double error) {
  std::ostringstream text;
  text << loop::OpName(row.op) << "(" << x << ") is " << y << ", not " << exact << ": " << error << " ulp";
  return text.str();
}

void CheckValue(const FunctionRow& row, float x, float y, double exact, Finding& finding) {
  if (std::fabs(y - exact) <= row.absolute) return;
  const double error = UlpError(DType::kFloat32, y, exact);
  if (!(error <= finding.worst)) finding.worst = error;
  const bool same_zero = exact != 0 || x != 0 || std::signbit(y) == std::signbit(exact);
  if (!(error <= row.ulps) || !same_zero) finding.failure = Failure(row, x, y, exact, error);
}

// Values first, first + step, ...; the reference, which takes the most time, is computed once for all kernels.
void CheckBlock(const std::vector<std::shared_ptr<const cpu::CompiledKernel>>& kernels, const FunctionRow& row,
                uint32_t first, uint32_t step, Finding& finding) {
  std::vector<float> x(kBlock), y(kBlock);
  std::vector<double> exact(kBlock);
  for (int64_t i = 0; i < kBlock; ++i) {
    x[i] = std::bit_cast<float>(static_cast<uint32_t>(first + i * step));
    exact[i] = row.reference(x[i]);
  }
  for (const auto& kernel : kernels) {
    void* buffers[] = {x.data(), y.data()};
    kernel->Run(buffers, 0, kBlock);
    for (int64_t i = 0; i < kBlock && finding.failure.empty(); ++i) CheckValue(row, x[i], y[i], exact[i], finding);
  }
}

Finding CheckAllBlocks(const std::vector<std::shared_ptr<const cpu::CompiledKernel>>& kernels, const FunctionRow& row,
                       uint32_t step) {
  const uint64_t block = uint64_t{step} * kBlock;
  std::atomic<uint64_t> next{0};
  std::vector<Finding> findings(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> threads;
  for (Finding& mine : findings) {
    threads.emplace_back([&] {
      for (uint64_t first; mine.failure.empty() && (first = next.fetch_add(block)) < uint64_t{1} << 32;) {
        CheckBlock(kernels, row, static_cast<uint32_t>(first), step, mine);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Finding all;
  for (Finding& found : findings) {
    all.worst = std::max(all.worst, found.worst);
    if (all.failure.empty()) all.failure = std::move(found.failure);
  }
  return all;
}

TEST_P(MathTest, WithinItsBound) {
  const FunctionRow row = GetParam();
  std::vector<std::shared_ptr<const cpu::CompiledKernel>> kernels;
  for (const CodegenOptions::IsaChoice isa : RunnableIsas()) {
    KernelBuilder b({kBlock});
    b.Store(b.AddOutput(DType::kFloat32), {1}, b.Unary(row.op, b.Load(b.AddInput(DType::kFloat32), {1})));
    CodegenOptions options;
    options.isa = isa;
    KernelCompiler compiler(options);
    auto compiled = compiler.Compile(MustFinish(std::move(b)));
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    kernels.push_back(*std::move(compiled));
  }
  const Finding found = CheckAllBlocks(kernels, row, std::getenv("FRAMEJIT_LONG_TESTS") != nullptr ? 3 : 997);
  EXPECT_EQ(found.failure, "");
  RecordProperty("worst_ulp", std::to_string(found.worst));
  std::printf("%s: worst error %.3f ulp\n", loop::OpName(row.op), found.worst);
}

INSTANTIATE_TEST_SUITE_P(Functions, MathTest, ::testing::ValuesIn(kFunctions),
                         [](const auto& info) { return std::string(loop::OpName(info.param.op)); });

}  // namespace
}  // namespace framejit::testing
