// The error bounds of math.h over all of f32: sampled in the normal run, every value with FRAMEJIT_LONG_TESTS=1.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <numeric>

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
    {Op::kSin, 2, [](double x) { return std::sin(x); }, 0},
    {Op::kCos, 2, [](double x) { return std::cos(x); }, 0},
};

class MathTest : public ::testing::TestWithParam<FunctionRow> {};

void CheckRange(const cpu::CompiledKernel& kernel, const FunctionRow& row, uint32_t first, uint32_t step,
                double& worst) {
  constexpr int64_t kCount = 1 << 14;
  std::vector<float> x(kCount), y(kCount);
  for (int64_t i = 0; i < kCount; ++i) x[i] = std::bit_cast<float>(static_cast<uint32_t>(first + i * step));
  void* buffers[] = {x.data(), y.data()};
  kernel.Run(buffers, 0, kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    const double exact = row.reference(x[i]);
    if (std::fabs(y[i] - exact) <= row.absolute) continue;
    const double error = UlpError(DType::kFloat32, y[i], exact);
    if (!(error <= worst)) worst = error;
    if (!(error <= row.ulps)) {
      FAIL() << loop::OpName(row.op) << "(" << x[i] << ") is " << y[i] << ", not " << exact << ": " << error << " ulp";
    }
    if (exact == 0 && x[i] == 0) {
      ASSERT_EQ(std::signbit(y[i]), std::signbit(exact)) << "sign of zero";
    }
  }
}

TEST_P(MathTest, WithinItsBound) {
  const FunctionRow row = GetParam();
  const bool every_value = std::getenv("FRAMEJIT_LONG_TESTS") != nullptr;
  const uint32_t step = every_value ? 1 : 997;
  for (const CodegenOptions::IsaChoice isa : RunnableIsas()) {
    KernelBuilder b({1 << 14});
    b.Store(b.AddOutput(DType::kFloat32), {1}, b.Unary(row.op, b.Load(b.AddInput(DType::kFloat32), {1})));
    CodegenOptions options;
    options.isa = isa;
    KernelCompiler compiler(options);
    const auto compiled = compiler.Compile(MustFinish(std::move(b)));
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    double worst = 0;
    const uint64_t block = uint64_t{step} << 14;
    for (uint64_t first = 0; first < (uint64_t{1} << 32) && !HasFatalFailure(); first += block) {
      CheckRange(**compiled, row, static_cast<uint32_t>(first), step, worst);
    }
    RecordProperty("worst_ulp", std::to_string(worst));
    std::printf("%s: worst error %.3f ulp\n", loop::OpName(row.op), worst);
  }
}

INSTANTIATE_TEST_SUITE_P(Functions, MathTest, ::testing::ValuesIn(kFunctions),
                         [](const auto& info) { return std::string(loop::OpName(info.param.op)); });

}  // namespace
}  // namespace framejit::testing
