// Rounding to narrow floats: what may be left out, and that what is left gives every bit that the interpreter gives.
#include "backends/cpu/codegen/rounding.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "backends/loop/interpret.h"
#include "tests/cpp/kernels/kernel_harness.h"

namespace framejit::testing {
namespace {

using cpu::FindRoundings;
using cpu::Rounding;

// The kind of the rounding of the last cast to a narrow float.
Rounding LastRounding(const Kernel& kernel) {
  const std::vector<Rounding> all = FindRoundings(kernel);
  for (size_t id = kernel.nodes.size(); id-- > 0;) {
    const loop::Node& node = kernel.nodes[id];
    if (node.op == Op::kCast && ClassOf(node.dtype) == loop::DTypeClass::kNarrowFloat) return all[id];
  }
  ADD_FAILURE() << "no rounding";
  return {};
}

TEST(RoundingTest, MaximumOfNumbersOfTheTypeIsOne) {
  KernelBuilder b({64});
  const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(DType::kBFloat16), {1});
  const ValueId most = b.Binary(Op::kMax, b.Const(DType::kFloat32, 0.5), b.Unary(Op::kNeg, x));
  b.Store(b.AddOutput(DType::kBFloat16), {1}, b.Cast(DType::kBFloat16, most));
  const Rounding rounding = LastRounding(MustFinish(std::move(b)));
  EXPECT_EQ(rounding.kind, Rounding::Kind::kNone);
  EXPECT_TRUE(rounding.short_nans);
}

TEST(RoundingTest, ConstantsOfMoreBitsAreNotNumbersOfTheType) {
  for (const double constant : {0.1, 65504.0 * 2, 0x1p-140, 1.0 + 0x1p-8}) {
    KernelBuilder b({64});
    const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(DType::kBFloat16), {1});
    const ValueId most = b.Binary(Op::kMax, b.Const(DType::kFloat32, constant), x);
    b.Store(b.AddOutput(DType::kBFloat16), {1}, b.Cast(DType::kBFloat16, most));
    EXPECT_EQ(LastRounding(MustFinish(std::move(b))).kind, Rounding::Kind::kStored) << constant;
  }
}

TEST(RoundingTest, ResultsThatAreComputedWithAreRoundedInFull) {
  KernelBuilder b({64});
  const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(DType::kBFloat16), {1});
  const ValueId sum = b.Cast(DType::kBFloat16, b.Binary(Op::kAdd, x, x));
  b.Store(b.AddOutput(DType::kBFloat16), {1}, sum);
  b.Store(b.AddOutput(DType::kFloat32), {1}, b.Cast(DType::kFloat32, sum));
  EXPECT_EQ(LastRounding(MustFinish(std::move(b))).kind, Rounding::Kind::kFull);
}

TEST(RoundingTest, WhatMayBeALongNaN) {
  const auto short_nans = [](DType input, Op op) {
    KernelBuilder b({64});
    const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(input), {1});
    b.Store(b.AddOutput(DType::kBFloat16), {1}, b.Cast(DType::kBFloat16, b.Unary(op, x)));
    return LastRounding(MustFinish(std::move(b))).short_nans;
  };
  EXPECT_TRUE(short_nans(DType::kBFloat16, Op::kExp));
  EXPECT_TRUE(short_nans(DType::kBFloat16, Op::kSqrt));
  EXPECT_TRUE(short_nans(DType::kInt32, Op::kNeg));
  EXPECT_FALSE(short_nans(DType::kFloat32, Op::kExp));
  EXPECT_FALSE(short_nans(DType::kFloat16, Op::kNeg));
  EXPECT_FALSE(short_nans(DType::kFloat64, Op::kNeg));
  EXPECT_FALSE(short_nans(DType::kBFloat16, Op::kLog));  // gives all ones of negative numbers
  EXPECT_FALSE(short_nans(DType::kBFloat16, Op::kTan));  // of the C library
}

// Every upper half of an f32 with the lower halves at which rounding changes its mind, NaNs of all lengths among them.
TEST(RoundingTest, EveryUpperHalfRoundsAsInterpreted) {
  constexpr uint32_t kLower[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
  constexpr int64_t kCount = 6 << 16;
  std::vector<uint32_t> input;
  for (uint32_t upper = 0; upper < 1 << 16; ++upper) {
    for (const uint32_t lower : kLower) input.push_back(upper << 16 | lower);
  }
  for (const DType type : {DType::kBFloat16, DType::kFloat16}) {
    KernelBuilder b({kCount});
    const ValueId x = b.Load(b.AddInput(DType::kFloat32), {1});
    const ValueId rounded = b.Cast(type, x);
    b.Store(b.AddOutput(type), {1}, rounded);  // computed with as well, below
    b.Store(b.AddOutput(DType::kFloat32), {1}, b.Cast(DType::kFloat32, rounded));
    b.Store(b.AddOutput(type), {1}, b.Cast(type, b.Binary(Op::kMax, b.Const(DType::kFloat32, -1), x)));
    const Kernel kernel = MustFinish(std::move(b));
    const auto run = [&](const auto& compute) {
      std::vector<uint16_t> full(kCount), stored(kCount);
      std::vector<float> wide(kCount);
      void* buffers[] = {input.data(), full.data(), wide.data(), stored.data()};
      compute(buffers);
      const auto value = [&](uint16_t bits) {
        return type == DType::kBFloat16 ? loop::BFloat16ToFloat(bits) : loop::Float16ToFloat(bits);
      };
      std::vector<float> out(std::move(wide));
      for (const uint16_t bits : full) out.push_back(value(bits));
      for (const uint16_t bits : stored) out.push_back(value(bits));
      return out;
    };
    const auto expected =
        run([&](void* const* buffers) { loop::Interpret(kernel, buffers, loop::Precision::kAsTyped); });
    for (const CodegenOptions::IsaChoice isa : RunnableIsas()) {
      CodegenOptions options;
      options.isa = isa;
      KernelCompiler compiler(options);
      const auto compiled = compiler.Compile(kernel);
      ASSERT_TRUE(compiled.ok()) << compiled.status();
      const auto got = run([&](void* const* buffers) { (*compiled)->Run(buffers, 0, (*compiled)->units()); });
      for (size_t i = 0; i < got.size(); ++i) {
        const bool same = std::isnan(expected[i])
                              ? std::isnan(got[i])
                              : std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(expected[i]);
        ASSERT_TRUE(same) << NameOf(isa) << " " << i << ": " << got[i] << " for " << expected[i];
      }
    }
  }
}

// Chains as eager computes them in bfloat16: rounded after each operator, on every tail.
TEST(RoundingTest, ChainsOfNarrowOperators) {
  for (const DType type : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t size : {1, 7, 16, 33, 100}) {
      KernelBuilder b({size});
      const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(type), {1});
      const ValueId y = b.LoadAs(DType::kFloat32, b.AddInput(type), {1});
      const auto round = [&](ValueId value) { return b.Cast(DType::kFloat32, b.Cast(type, value)); };
      const ValueId sum = round(b.Binary(Op::kAdd, x, y));
      const ValueId positive = round(b.Binary(Op::kMax, b.Const(DType::kFloat32, 0), sum));
      const ValueId half = b.Binary(Op::kMul, positive, b.Const(DType::kFloat32, 0.5));
      b.Store(b.AddOutput(type), {1}, b.Cast(type, half));
      CheckKernel(MustFinish(std::move(b)));
    }
  }
}

}  // namespace
}  // namespace framejit::testing
