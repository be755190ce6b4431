// Strides, broadcasting, permutation, offsets and many dimensions.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "kernel_harness.h"

namespace framejit::testing {
namespace {

TEST(LayoutTest, BroadcastRowAndColumn) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kInt64, DType::kInt32}) {
    KernelBuilder b({5, 37});
    const ValueId x = b.Load(b.AddInput(dtype), {37, 1});
    const ValueId row = b.Load(b.AddInput(dtype), {0, 1});
    const ValueId column = b.Load(b.AddInput(dtype), {1, 0});
    const ValueId scalar = b.Load(b.AddInput(dtype), {0, 0});
    const ValueId sum = b.Binary(Op::kAdd, b.Binary(Op::kAdd, x, row), b.Binary(Op::kAdd, column, scalar));
    b.Store(b.AddOutput(dtype), {37, 1}, sum);
    CheckKernel(MustFinish(std::move(b)));
  }
}

TEST(LayoutTest, BroadcastScalarsOfEveryStorageType) {
  for (const DType dtype : {DType::kBool, DType::kUInt8, DType::kInt8, DType::kInt16, DType::kInt32, DType::kInt64,
                            DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    KernelBuilder b({4, 19});
    b.Store(b.AddOutput(dtype), {19, 1}, b.Load(b.AddInput(dtype), {1, 0}));
    CheckKernel(MustFinish(std::move(b)));
    if (HasFailure()) FAIL() << loop::DTypeName(dtype);
  }
}

TEST(LayoutTest, TransposedAndStridedInputs) {
  for (const DType dtype : {DType::kUInt8, DType::kBFloat16, DType::kFloat32, DType::kInt64}) {
    KernelBuilder b({9, 21});
    b.Store(b.AddOutput(dtype), {21, 1}, b.Load(b.AddInput(dtype), {1, 9}));
    b.Store(b.AddOutput(dtype), {42, 2}, b.Load(b.AddInput(dtype), {63, 3}));
    CheckKernel(MustFinish(std::move(b)));
  }
}

// [batch, 48, 32] of what lies as [batch, 32, 48], beside an operand in order and one that is a row of the transposed.
TEST(LayoutTest, TilesOfTransposedInputs) {
  for (const DType dtype : {DType::kBool, DType::kUInt8, DType::kInt16, DType::kBFloat16, DType::kFloat16,
                            DType::kFloat32, DType::kInt64, DType::kFloat64}) {
    KernelBuilder b({3, 48, 32});
    const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(dtype), {48 * 32, 1, 48});
    const ValueId shared = b.LoadAs(DType::kFloat32, b.AddInput(dtype), {0, 1, 64}, 5);
    const ValueId y = b.Load(b.AddInput(DType::kFloat32), {48 * 32, 32, 1});
    const ValueId row = b.Load(b.AddInput(DType::kFloat32), {0, 1, 0});
    const ValueId sum = b.Binary(Op::kAdd, b.Binary(Op::kMul, x, shared), b.Binary(Op::kSub, y, row));
    b.Store(b.AddOutput(DType::kFloat32), {48 * 32, 32, 1}, sum);
    CheckKernel(MustFinish(std::move(b)), {.specials = false});
  }
}

TEST(LayoutTest, NegativeStrideReversesAndOffsetShifts) {
  KernelBuilder b({30});
  b.Store(b.AddOutput(DType::kFloat32), {1}, b.Load(b.AddInput(DType::kFloat32), {-1}, 29), 3);
  CheckKernel(MustFinish(std::move(b)));
}

// Lanes too far apart for the instructions' 32-bit displacements; untouched pages of the mapping cost nothing.
TEST(LayoutTest, StridesBeyondADisplacement) {
  constexpr int64_t kFar = int64_t{1} << 28, kCount = 9;
  KernelBuilder b({kCount});
  b.Store(b.AddOutput(DType::kUInt8), {1}, b.Load(b.AddInput(DType::kUInt8), {kFar}));
  KernelCompiler compiler;
  const auto compiled = compiler.Compile(MustFinish(std::move(b)));
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  void* map = mmap(nullptr, kFar * kCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(map, MAP_FAILED);
  uint8_t out[kCount] = {};
  for (int64_t i = 0; i < kCount; ++i) static_cast<uint8_t*>(map)[i * kFar] = static_cast<uint8_t>(i + 1);
  void* buffers[] = {map, out};
  (*compiled)->Run(buffers, 0, kCount);
  munmap(map, kFar * kCount);
  for (int64_t i = 0; i < kCount; ++i) EXPECT_EQ(out[i], i + 1);
}

TEST(LayoutTest, FourDimensionsPermutedAndBroadcast) {
  const std::vector<int64_t> sizes = {2, 3, 4, 5};
  KernelBuilder b(sizes);
  const ValueId x = b.Load(b.AddInput(DType::kFloat32), {60, 5, 15, 1});
  const ValueId y = b.Load(b.AddInput(DType::kFloat32), {0, 4, 1, 0});
  const ValueId z = b.Load(b.AddInput(DType::kFloat32), {1, 2, 6, 24});
  b.Store(b.AddOutput(DType::kFloat32), Contiguous(sizes), b.Binary(Op::kMul, b.Binary(Op::kAdd, x, y), z));
  CheckKernel(MustFinish(std::move(b)));
}

TEST(LayoutTest, OutputInAnotherOrder) {
  KernelBuilder b({2, 3, 4, 50});
  const ValueId x = b.Load(b.AddInput(DType::kFloat32), {600, 200, 50, 1});
  b.Store(b.AddOutput(DType::kFloat32), {600, 1, 150, 3}, b.Unary(Op::kNeg, x));
  CheckKernel(MustFinish(std::move(b)));
}

TEST(LayoutTest, IndexOfEveryDimension) {
  KernelBuilder b({3, 4, 27});
  const ValueId position =
      b.Binary(Op::kAdd, b.Binary(Op::kMul, b.Index(0), b.ConstInt(DType::kInt64, 1000)),
               b.Binary(Op::kAdd, b.Binary(Op::kMul, b.Index(1), b.ConstInt(DType::kInt64, 100)), b.Index(2)));
  b.Store(b.AddOutput(DType::kInt64), {108, 27, 1}, position);
  const ValueId causal = b.Binary(Op::kLe, b.Index(2), b.Index(1));
  b.Store(b.AddOutput(DType::kBool), {108, 27, 1}, causal);
  CheckKernel(MustFinish(std::move(b)));
}

TEST(LayoutTest, ElementIndexOfOneDimension) {
  KernelBuilder b({77});
  b.Store(b.AddOutput(DType::kFloat32), {1}, b.Cast(DType::kFloat32, b.Index(0)));
  CheckKernel(MustFinish(std::move(b)));
}

TEST(LayoutTest, OneElementAndManyBuffers) {
  KernelBuilder b({});
  ValueId sum = b.Load(b.AddInput(DType::kFloat32), {0});
  for (int i = 0; i < 30; ++i) sum = b.Binary(Op::kAdd, sum, b.Load(b.AddInput(DType::kFloat32), {0}));
  b.Store(b.AddOutput(DType::kFloat32), {0}, sum);
  CheckKernel(MustFinish(std::move(b)), {.specials = false});
}

TEST(LayoutTest, ThirtyInputsOfManyElements) {
  KernelBuilder b({6, 45});
  ValueId sum = b.Load(b.AddInput(DType::kFloat32), {45, 1});
  for (int i = 0; i < 30; ++i) sum = b.Binary(Op::kAdd, sum, b.Load(b.AddInput(DType::kFloat32), {i % 2 ? 45 : 46, 1}));
  b.Store(b.AddOutput(DType::kFloat32), {45, 1}, sum);
  CheckKernel(MustFinish(std::move(b)), {.specials = false});
}

// The bool is spilled over the second conversion's call when its store comes.
TEST(LayoutTest, ScalarStoreOfASpilledValue) {
  const auto kernel = loop::Parse(R"(kernel [3, 3] {
    b0: i64
    b1: f64
    b2: bool out
    b3: f16 out
    v0: i64 = load b0[0; 1, 0]
    v1: f64 = load b1[0; 1, 0]
    v2: f64 = cast v0
    v3: f64 = div v2, v1
    v4: bool = cast v3
    v5: i64 = cast v4
    v6: f16 = cast v5
    store b3[0; 1, 0] v6
    store b2[0; 1, 0] v4
  })");
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  CheckKernel(*kernel);
}

TEST(LayoutTest, DivisionOfWorkFollowsTheShape) {
  KernelCompiler compiler;
  KernelBuilder flat({8, 128});
  flat.Store(flat.AddOutput(DType::kFloat32), {128, 1}, flat.Load(flat.AddInput(DType::kFloat32), {128, 1}));
  EXPECT_EQ((*compiler.Compile(MustFinish(std::move(flat))))->units(), 1024);
  KernelBuilder rows({8, 128});
  rows.Store(rows.AddOutput(DType::kFloat32), {128, 1}, rows.Load(rows.AddInput(DType::kFloat32), {0, 1}));
  EXPECT_EQ((*compiler.Compile(MustFinish(std::move(rows))))->units(), 8);
  KernelBuilder columns({256, 10});
  const ValueId x = columns.Load(columns.AddInput(DType::kFloat32), {1, 256});
  columns.Store(columns.AddOutput(DType::kFloat32), {1, 0}, columns.Reduce(Op::kReduceSum, x));
  const auto vectors = compiler.Compile(MustFinish(std::move(columns)));
  EXPECT_EQ((*vectors)->units() * (*vectors)->elements_per_unit(), 2560);
  EXPECT_LT((*vectors)->units(), 256);
}

TEST(LayoutTest, EqualKernelsShareCode) {
  KernelCompiler compiler;
  const auto make = [] {
    KernelBuilder b({64});
    b.Store(b.AddOutput(DType::kFloat32), {1}, b.Unary(Op::kExp, b.Load(b.AddInput(DType::kFloat32), {1})));
    return MustFinish(std::move(b));
  };
  const auto first = compiler.Compile(make()), second = compiler.Compile(make());
  EXPECT_EQ(&(*first)->code(), &(*second)->code());
}

}  // namespace
}  // namespace framejit::testing
