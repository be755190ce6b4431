// Code that takes sizes at run time: emitted once, it computes kernels of many sizes.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "kernel_harness.h"

namespace framejit::testing {
namespace {

using cpu::Sizes;

constexpr int kExtents = 50;

// 1, what is around the vectors of both instruction sets and of four of them, primes, and some in between.
std::vector<int64_t> Extents() {
  std::vector<int64_t> extents = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129, 257, 1009};
  std::mt19937_64 random(1);
  while (extents.size() < kExtents) extents.push_back(static_cast<int64_t>(1 + random() % 300));
  return extents;
}

// Kernels of `make(extent)`, all by one compiler; `most`: how often it may emit code.
void CheckExtents(const std::function<Kernel(int64_t)>& make, int64_t most, const CheckOptions& options = {}) {
  for (const CodegenOptions::IsaChoice isa : RunnableIsas()) {
    SCOPED_TRACE(NameOf(isa));
    CodegenOptions codegen;
    codegen.isa = isa;
    KernelCompiler compiler(codegen);
    std::vector<std::shared_ptr<const cpu::CompiledKernel>> held;
    for (const int64_t extent : Extents()) {
      const Kernel kernel = make(extent);
      held.push_back(*compiler.Compile(kernel, Sizes::kOpen));
      CheckOpenKernel(compiler, kernel, options);
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_LE(compiler.emitted().emitted, most);
    EXPECT_EQ(compiler.emitted().held, compiler.emitted().emitted);
  }
}

// A bias for each column and a scale for each row, for `rows` and 48 columns.
Kernel BiasAndScale(int64_t rows, int64_t columns) {
  KernelBuilder b({2, rows, columns});
  const ValueId x = b.Load(b.AddInput(DType::kFloat32), {rows * columns + 5, columns, 1}, 3);
  const ValueId bias = b.Load(b.AddInput(DType::kFloat32), {0, 0, 1});
  const ValueId scale = b.Load(b.AddInput(DType::kFloat32), {rows, 1, 0});
  b.Store(b.AddOutput(DType::kFloat32), {columns, 2 * columns, 1},
          b.Binary(Op::kMul, b.Binary(Op::kAdd, x, bias), scale));
  return MustFinish(std::move(b));
}

Kernel Softmax(int64_t rows, int64_t columns) {
  KernelBuilder b({rows, columns});
  const ValueId x = b.Load(b.AddInput(DType::kFloat32), {columns, 1});
  const ValueId power = b.Unary(Op::kExp, b.Binary(Op::kSub, x, b.Reduce(Op::kReduceMax, x)));
  b.Store(b.AddOutput(DType::kFloat32), {columns, 1}, b.Binary(Op::kDiv, power, b.Reduce(Op::kReduceSum, power)));
  return MustFinish(std::move(b));
}

// Sums over a dimension whose neighbours lie 40 elements apart.
Kernel ColumnSums(int64_t batch, int64_t length) {
  KernelBuilder b({batch, 40, length});
  const ValueId x = b.Load(b.AddInput(DType::kFloat32), {length * 40, 1, 40});
  b.Store(b.AddOutput(DType::kFloat32), {40, 1, 0}, b.Reduce(Op::kReduceSum, x));
  return MustFinish(std::move(b));
}

// One row, and dimensions that merge, are kernels of their own.
TEST(OpenKernelTest, RowsOfAnyNumber) {
  CheckExtents([](int64_t rows) { return BiasAndScale(rows, 48); }, 2);
}

// Code for two sizes of vectors, then one for all, and that for rows of one element.
TEST(OpenKernelTest, VectorsAlongAnySize) {
  CheckExtents([](int64_t columns) { return BiasAndScale(5, columns); }, 4);
}

TEST(OpenKernelTest, ElementsOfAnyNumber) {
  const auto make = [](int64_t count) {
    KernelBuilder b({count});
    const ValueId x = b.Load(b.AddInput(DType::kBFloat16), {1});
    b.Store(b.AddOutput(DType::kInt32), {1}, b.Cast(DType::kInt32, b.Cast(DType::kFloat32, x)));
    return MustFinish(std::move(b));
  };
  CheckExtents(make, 1, {.specials = false});
}

// What is far below the largest value has the rounding of the difference in its exponential.
constexpr CheckOptions kSoftmaxOptions{.ulps = 64, .specials = false};

// What is kept of a row on the stack has room for any length.
TEST(OpenKernelTest, SoftmaxOverAnyLength) {
  CheckExtents([](int64_t columns) { return Softmax(3, columns); }, 4, kSoftmaxOptions);
}

TEST(OpenKernelTest, SoftmaxOfAnyNumberOfRows) {
  CheckExtents([](int64_t rows) { return Softmax(rows, 37); }, 2, kSoftmaxOptions);
}

// One for each length of the runs that are added up at a time, 8, 16 and 32, behind code for two lengths; and for one.
TEST(OpenKernelTest, ColumnsOfAnyLength) {
  CheckExtents([](int64_t length) { return ColumnSums(3, length); }, 10,
               {.ulps = 64, .absolute = 1e-4, .specials = false});
}

TEST(OpenKernelTest, ColumnsOfAnyBatch) {
  CheckExtents([](int64_t batch) { return ColumnSums(batch, 12); }, 2,
               {.ulps = 64, .absolute = 1e-4, .specials = false});
}

// Reductions of rows that are added up block by block are for their own length.
TEST(OpenKernelTest, LongRowsStayClosed) {
  KernelCompiler compiler;
  for (const int64_t columns : {5000, 5001, 5002, 5003})
    CheckOpenKernel(compiler, Softmax(2, columns), kSoftmaxOptions);
  EXPECT_EQ(compiler.emitted().emitted, 4);
}

// A load of a dimension that lies across: tiles where the size has divisors.
TEST(OpenKernelTest, TransposedLoads) {
  const auto make = [](int64_t rows) {
    KernelBuilder b({rows, 64, 32});
    const ValueId x = b.Load(b.AddInput(DType::kFloat32), {64 * 32, 1, 64});
    b.Store(b.AddOutput(DType::kFloat32), {64 * 32, 32, 1}, b.Unary(Op::kNeg, x));
    return MustFinish(std::move(b));
  };
  CheckExtents(make, 2);
}

TEST(OpenKernelTest, ManyShortRowsStayClosed) {
  KernelCompiler compiler;
  for (const int64_t rows : {700, 701, 702, 703}) CheckOpenKernel(compiler, BiasAndScale(rows, 5));
  EXPECT_EQ(compiler.emitted().emitted, 4);
}

TEST(OpenKernelTest, ClosedKernelsKeepTheirOwnCode) {
  KernelCompiler compiler;
  const auto one = compiler.Compile(BiasAndScale(3, 48)), other = compiler.Compile(BiasAndScale(4, 48));
  EXPECT_NE(&(*one)->code(), &(*other)->code());
  EXPECT_EQ(compiler.emitted().emitted, 2);
}

}  // namespace
}  // namespace framejit::testing
