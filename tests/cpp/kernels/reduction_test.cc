// Reductions and the row kernels made of them: softmax, log-softmax, layer norm, RMS norm.
#include <gtest/gtest.h>

#include <cmath>

#include "kernel_harness.h"

namespace framejit::testing {
namespace {

constexpr int64_t kRows = 3;

Kernel ReduceRows(Op op, DType dtype, int64_t length, std::vector<int64_t> strides) {
  KernelBuilder b({kRows, length});
  const ValueId x = b.Load(b.AddInput(dtype), std::move(strides));
  b.Store(b.AddOutput(dtype), {1, 0}, b.Reduce(op, x));
  return MustFinish(std::move(b));
}

TEST(ReductionTest, IntegersAndExtremaAreExact) {
  for (const Op op : {Op::kReduceSum, Op::kReduceProd, Op::kReduceMax, Op::kReduceMin}) {
    for (const DType dtype : {DType::kInt32, DType::kInt64, DType::kFloat32, DType::kFloat64}) {
      const bool extremum = op == Op::kReduceMax || op == Op::kReduceMin;
      if (!extremum && loop::IsFloat(dtype)) continue;
      for (int64_t length = extremum ? 1 : 0; length <= 67; ++length) {
        CheckKernel(ReduceRows(op, dtype, length, {length, 1}), {.specials = false});
      }
      CheckKernel(ReduceRows(op, dtype, 1000, {1000, 1}), {.specials = false});
      if (HasFailure()) FAIL() << loop::OpName(op) << " " << loop::DTypeName(dtype);
    }
  }
}

TEST(ReductionTest, DownColumns) {
  for (const Op op : {Op::kReduceSum, Op::kReduceProd, Op::kReduceMax, Op::kReduceMin}) {
    for (const DType dtype : {DType::kInt32, DType::kInt64, DType::kFloat32, DType::kFloat64}) {
      const bool extremum = op == Op::kReduceMax || op == Op::kReduceMin;
      if (!extremum && loop::IsFloat(dtype)) continue;
      for (int64_t columns = 2; columns <= 70; ++columns) {
        KernelBuilder b({3, columns, 5});
        const ValueId x = b.Load(b.AddInput(dtype), {5 * columns, 1, columns});
        b.Store(b.AddOutput(dtype), {columns, 1, 0}, b.Reduce(op, x));
        CheckKernel(MustFinish(std::move(b)), {.specials = false});
      }
      if (HasFailure()) FAIL() << loop::OpName(op) << " " << loop::DTypeName(dtype);
    }
  }
}

TEST(ReductionTest, OneNaNAnywhereMakesTheExtremumNaN) {
  KernelCompiler compiler;
  for (const Op op : {Op::kReduceMax, Op::kReduceMin}) {
    const auto compiled = compiler.Compile(ReduceRows(op, DType::kFloat32, 41, {41, 1}));
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    for (int at = 0; at < 41; ++at) {
      std::vector<float> x(kRows * 41, 1.0f), out(kRows);
      x[at] = NAN;
      void* buffers[] = {x.data(), out.data()};
      (*compiled)->Run(buffers, 0, kRows);
      EXPECT_TRUE(std::isnan(out[0])) << at;
      EXPECT_EQ(out[1], 1.0f);
    }
  }
}

TEST(ReductionTest, StridedAndBroadcast) {
  CheckKernel(ReduceRows(Op::kReduceMax, DType::kFloat32, 50, {1, kRows}));
  CheckKernel(ReduceRows(Op::kReduceSum, DType::kInt64, 50, {1, kRows}));
  CheckKernel(ReduceRows(Op::kReduceSum, DType::kInt32, 50, {1, 0}));
}

TEST(ReductionTest, AllElementsToOne) {
  for (const int64_t length : {1, 5, 64, 1001}) {
    KernelBuilder b({length});
    b.Store(b.AddOutput(DType::kInt64), {0}, b.Reduce(Op::kReduceSum, b.Load(b.AddInput(DType::kInt64), {1})));
    CheckKernel(MustFinish(std::move(b)));
  }
}

// A sum of n positive numbers of relative error e * log2(n) is what pairwise summation promises.
TEST(ReductionTest, SumsAreAsAccurateAsPairwise) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const int64_t length : {100, 4096, 5000, 100000, 1000001}) {
      if (dtype == DType::kFloat64 && length > 100000) continue;
      KernelBuilder b({length});
      const ValueId x = b.Unary(Op::kAbs, b.Load(b.AddInput(dtype), {1}));
      b.Store(b.AddOutput(dtype), {0}, b.Reduce(Op::kReduceSum, x));
      CheckKernel(MustFinish(std::move(b)), {.ulps = std::log2(static_cast<double>(length)), .specials = false});
    }
  }
}

TEST(ReductionTest, SumsDownColumnsAreAsAccurateAsPairwise) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const int64_t length : {2, 100, 128, 129, 5000, 100000}) {
      if (dtype == DType::kFloat64 && length > 5000) continue;
      const int64_t columns = 37;
      KernelBuilder b({columns, length});
      const ValueId x = b.Unary(Op::kAbs, b.Load(b.AddInput(dtype), {1, columns}));
      b.Store(b.AddOutput(dtype), {1, 0}, b.Reduce(Op::kReduceSum, x));
      CheckKernel(MustFinish(std::move(b)), {.ulps = std::log2(static_cast<double>(length)), .specials = false});
    }
  }
}

// Two passes down each column, a store of elements and one of the row values, beside a broadcast factor per element of
// the reduced dimension.
TEST(ReductionTest, StandardiseColumns) {
  for (const int64_t columns : {1, 7, 8, 31, 64, 100}) {
    const int64_t length = 300;
    KernelBuilder b({2, columns, length});
    const ValueId raw = b.Load(b.AddInput(DType::kFloat32), {columns * length, 1, columns});
    const ValueId x = b.Binary(Op::kMul, raw, b.Load(b.AddInput(DType::kFloat32), {0, 0, 1}));
    const ValueId mean = b.Mean(x);
    const ValueId variance = b.Variance(x, mean, 1);
    const ValueId scale = b.Unary(Op::kRsqrt, b.Binary(Op::kAdd, variance, b.Const(DType::kFloat32, 1e-5)));
    const ValueId y = b.Binary(Op::kMul, b.Binary(Op::kSub, x, mean), scale);
    b.Store(b.AddOutput(DType::kBFloat16), {columns * length, 1, columns}, y);
    b.Store(b.AddOutput(DType::kFloat32), {columns, 1, 0}, mean);
    CheckKernel(MustFinish(std::move(b)), {.ulps = 4, .absolute = 1e-5, .specials = false});
  }
}

TEST(ReductionTest, SeveralReductionsOfOneLongPass) {
  KernelBuilder b({2, 10007});
  const ValueId x = b.Load(b.AddInput(DType::kFloat32), {10007, 1});
  b.Store(b.AddOutput(DType::kFloat32), {1, 0}, b.Reduce(Op::kReduceSum, b.Unary(Op::kAbs, x)));
  b.Store(b.AddOutput(DType::kFloat32), {1, 0}, b.Reduce(Op::kReduceMax, x));
  b.Store(b.AddOutput(DType::kFloat32), {1, 0}, b.Reduce(Op::kReduceSum, b.Binary(Op::kMul, x, x)));
  CheckKernel(MustFinish(std::move(b)), {.ulps = 12, .specials = false});
}

ValueId LoadRows(KernelBuilder& b, DType dtype, int64_t columns) {
  return b.LoadAs(DType::kFloat32, b.AddInput(dtype), {columns, 1});
}

Kernel Softmax(int64_t columns, DType dtype, bool logarithm) {
  KernelBuilder b({kRows, columns});
  const ValueId x = LoadRows(b, dtype, columns);
  const ValueId shifted = b.Binary(Op::kSub, x, b.Reduce(Op::kReduceMax, x));
  const ValueId e = b.Unary(Op::kExp, shifted);
  const ValueId sum = b.Reduce(Op::kReduceSum, e);
  const ValueId y = logarithm ? b.Binary(Op::kSub, shifted, b.Unary(Op::kLog, sum)) : b.Binary(Op::kDiv, e, sum);
  b.Store(b.AddOutput(dtype), {columns, 1}, y);
  return MustFinish(std::move(b));
}

Kernel LayerNorm(int64_t columns, DType dtype) {
  KernelBuilder b({kRows, columns});
  const ValueId x = LoadRows(b, dtype, columns);
  const ValueId weight = b.LoadAs(DType::kFloat32, b.AddInput(dtype), {0, 1});
  const ValueId bias = b.LoadAs(DType::kFloat32, b.AddInput(dtype), {0, 1});
  const ValueId mean = b.Mean(x);
  const ValueId variance = b.Variance(x, mean, 0);
  const ValueId rstd = b.Unary(Op::kRsqrt, b.Binary(Op::kAdd, variance, b.Const(DType::kFloat32, 1e-5)));
  const ValueId normal = b.Binary(Op::kMul, b.Binary(Op::kSub, x, mean), rstd);
  b.Store(b.AddOutput(dtype), {columns, 1}, b.Binary(Op::kAdd, b.Binary(Op::kMul, normal, weight), bias));
  b.Store(b.AddOutput(DType::kFloat32), {1, 0}, mean);
  b.Store(b.AddOutput(DType::kFloat32), {1, 0}, rstd);
  return MustFinish(std::move(b));
}

Kernel RmsNorm(int64_t columns, DType dtype) {
  KernelBuilder b({kRows, columns});
  const ValueId x = LoadRows(b, dtype, columns);
  const ValueId weight = b.LoadAs(DType::kFloat32, b.AddInput(dtype), {0, 1});
  const ValueId square = b.Mean(b.Binary(Op::kMul, x, x));
  const ValueId scale = b.Unary(Op::kRsqrt, b.Binary(Op::kAdd, square, b.Const(DType::kFloat32, 1e-6)));
  b.Store(b.AddOutput(dtype), {columns, 1}, b.Binary(Op::kMul, weight, b.Binary(Op::kMul, x, scale)));
  return MustFinish(std::move(b));
}

class RowKernelTest : public ::testing::TestWithParam<int64_t> {};

INSTANTIATE_TEST_SUITE_P(Columns, RowKernelTest, ::testing::Values(1, 2, 7, 8, 16, 33, 100, 768, 1023, 5000, 20011));

// x - max rounds by up to half a unit of its own size, which exp turns into a relative error: small inputs keep that at
// a few units of the result.
TEST_P(RowKernelTest, Softmax) {
  CheckKernel(Softmax(GetParam(), DType::kFloat32, false), {.ulps = 12, .specials = false, .scale = 0.125});
  CheckKernel(Softmax(GetParam(), DType::kBFloat16, false), {.ulps = 1, .absolute = 1e-30, .specials = false});
}

TEST_P(RowKernelTest, LogSoftmax) {
  CheckKernel(Softmax(GetParam(), DType::kFloat32, true), {.ulps = 6, .absolute = 2e-6, .specials = false});
}

TEST_P(RowKernelTest, LayerNorm) {
  CheckKernel(LayerNorm(GetParam(), DType::kFloat32), {.ulps = 4, .absolute = 1e-5, .specials = false});
  CheckKernel(LayerNorm(GetParam(), DType::kBFloat16), {.ulps = 1, .absolute = 1e-5, .specials = false});
}

TEST_P(RowKernelTest, RmsNorm) {
  CheckKernel(RmsNorm(GetParam(), DType::kFloat32), {.ulps = 12, .specials = false});
  CheckKernel(RmsNorm(GetParam(), DType::kFloat16), {.ulps = 1, .specials = false});
}

TEST_P(RowKernelTest, GeluThenLayerNormKeepsTheRow) {
  const int64_t columns = GetParam();
  KernelBuilder b({kRows, columns});
  const ValueId x = LoadRows(b, DType::kFloat32, columns);
  const ValueId erf = b.Unary(Op::kErf, b.Binary(Op::kMul, x, b.Const(DType::kFloat32, std::sqrt(0.5))));
  const ValueId half = b.Binary(Op::kMul, x, b.Const(DType::kFloat32, 0.5));
  const ValueId gelu = b.Binary(Op::kMul, half, b.Binary(Op::kAdd, erf, b.Const(DType::kFloat32, 1)));
  const ValueId mean = b.Mean(gelu);
  const ValueId variance = b.Variance(gelu, mean, 0);
  const ValueId rstd = b.Unary(Op::kRsqrt, b.Binary(Op::kAdd, variance, b.Const(DType::kFloat32, 1e-5)));
  b.Store(b.AddOutput(DType::kFloat32), {columns, 1}, b.Binary(Op::kMul, b.Binary(Op::kSub, gelu, mean), rstd));
  CheckKernel(MustFinish(std::move(b)), {.ulps = 4, .absolute = 1e-5, .specials = false});
}

}  // namespace
}  // namespace framejit::testing
