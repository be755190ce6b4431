// Every operator assembles for both instruction sets, whatever this CPU has.
#include <gtest/gtest.h>

#include "kernel_harness.h"

namespace framejit::testing {
namespace {

constexpr DType kTypes[] = {DType::kBool,  DType::kUInt8,   DType::kInt8,     DType::kInt16,   DType::kInt32,
                            DType::kInt64, DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};

class AssembleTest : public ::testing::TestWithParam<CodegenOptions::IsaChoice> {
 protected:
  void Assemble(KernelBuilder builder) {
    CodegenOptions options;
    options.isa = GetParam();
    options.keep_text = true;
    KernelCompiler compiler(options);
    auto kernel = std::move(builder).Finish();
    ASSERT_TRUE(kernel.ok()) << kernel.status();
    const auto compiled = compiler.Compile(*kernel);
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    EXPECT_NE((*compiled)->code().assembly().find("ret"), std::string::npos);
    EXPECT_NE((*compiled)->code().assembly().find("vzeroupper"), std::string::npos);
  }
};

TEST_P(AssembleTest, ArithmeticOnEveryType) {
  for (int op = static_cast<int>(Op::kNeg); op < static_cast<int>(Op::kReduceSum); ++op) {
    for (const DType dtype : {DType::kBool, DType::kInt32, DType::kInt64, DType::kFloat32, DType::kFloat64}) {
      for (const bool reduce : {false, true}) {
        KernelBuilder b({3, 50});
        const int count = loop::OperandCount(static_cast<Op>(op));
        const ValueId x = b.Load(b.AddInput(dtype), {50, 1}), y = b.Load(b.AddInput(dtype), {1, 0});
        const ValueId condition = b.Load(b.AddInput(DType::kBool), {50, 1});
        ValueId z;
        if (count == 1)
          z = b.Unary(static_cast<Op>(op), x);
        else if (count == 2)
          z = b.Binary(static_cast<Op>(op), x, y);
        else
          z = b.Select(condition, x, y);
        if (reduce) {
          const ValueId number = b.dtype_of(z) == DType::kBool ? b.Cast(DType::kInt32, z) : z;
          b.Store(b.AddOutput(b.dtype_of(number)), {1, 0}, b.Reduce(Op::kReduceMax, number));
        } else {
          b.Store(b.AddOutput(b.dtype_of(z)), {50, 1}, z);
        }
        KernelBuilder probe = b;
        if (!std::move(probe).Finish().ok()) continue;  // not for this type
        Assemble(std::move(b));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(AssembleTest, ConversionsAndStoresOfEveryPair) {
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      KernelBuilder b({5, 21});
      b.Store(b.AddOutput(to), {21, 1}, b.Load(b.AddInput(from), {42, 2}));
      b.Store(b.AddOutput(to), {42, 2}, b.Load(b.AddInput(from), {0, 1}));
      b.Store(b.AddOutput(to), {1, 0}, b.Load(b.AddInput(from), {1, 0}));
      Assemble(std::move(b));
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, AssembleTest,
                         ::testing::Values(CodegenOptions::IsaChoice::kAvx2, CodegenOptions::IsaChoice::kAvx512,
                                           CodegenOptions::IsaChoice::kAvx512Vnni),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

}  // namespace
}  // namespace framejit::testing
