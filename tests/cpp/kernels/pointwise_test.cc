// Every operator on every type it accepts, for every tail length, against the interpreter.
#include <gtest/gtest.h>

#include "kernel_harness.h"

namespace framejit::testing {
namespace {

struct OpRow {
  Op op;
  const char* classes;  // of ops.def
  const char* result;
};

constexpr OpRow kRows[] = {
#define FRAMEJIT_LOOP_OP(name, text, operands, classes, result) {Op::k##name, #classes, #result},
#include "backends/loop/ops.def"
#undef FRAMEJIT_LOOP_OP
};

bool IsPointwise(const OpRow& row) {
  return loop::OperandCount(row.op) > 0 && row.op != Op::kCast && row.op != Op::kStore && !loop::IsReduction(row.op);
}

std::vector<DType> TypesOf(const OpRow& row) {
  std::vector<DType> types;
  const std::string classes = row.classes;
  if (classes.find('B') != std::string::npos) types.push_back(DType::kBool);
  if (classes.find('I') != std::string::npos) types.insert(types.end(), {DType::kInt32, DType::kInt64});
  if (classes.find('F') != std::string::npos) types.insert(types.end(), {DType::kFloat32, DType::kFloat64});
  return types;
}

// The bound that math.h states; functions through the C library are within one unit of the exact value.
double UlpBound(Op op) {
  switch (op) {
    case Op::kExp:
    case Op::kExpNonPositive:
    case Op::kLog:
    case Op::kErf:
      return 1.5;
    case Op::kExpm1:
    case Op::kLog1p:
    case Op::kTanh:
      return 2;
    case Op::kSin:
    case Op::kCos:
      return 2;
    case Op::kSigmoid:
      return 2.5;
    case Op::kExp2:
    case Op::kLog2:
    case Op::kLog10:
    case Op::kErfc:
    case Op::kTan:
    case Op::kAsin:
    case Op::kAcos:
    case Op::kAtan:
    case Op::kSinh:
    case Op::kCosh:
    case Op::kPow:
    case Op::kAtan2:
      return 2;
    case Op::kGelu:
      return 6;
    case Op::kNormalCdf:
      return 4;
    case Op::kRsqrt:
      return 1.5;
    default:
      return 0;
  }
}

Kernel OneOp(Op op, DType dtype, int64_t length) {
  KernelBuilder b({length});
  ValueId operands[3];
  for (int i = 0; i < loop::OperandCount(op); ++i) {
    const bool condition = op == Op::kSelect && i == 0;
    operands[i] = b.Load(b.AddInput(condition ? DType::kBool : dtype), {1});
  }
  ValueId result;
  if (op == Op::kSelect)
    result = b.Select(operands[0], operands[1], operands[2]);
  else if (loop::OperandCount(op) == 2)
    result = b.Binary(op, operands[0], operands[1]);
  else
    result = b.Unary(op, operands[0]);
  b.Store(b.AddOutput(b.dtype_of(result)), {1}, result);
  return MustFinish(std::move(b));
}

CheckOptions OptionsFor(Op op) {
  CheckOptions options;
  options.ulps = UlpBound(op);
  // 1 / (1 + exp(-x)) in f32 is zero where exp(-x) overflows.
  if (op == Op::kSigmoid) options.absolute = 3e-39;
  if (op == Op::kNormalCdf) options.absolute = 2.4e-7;
  if (op == Op::kGelu) options.absolute = 4.8e-7;
  if (op == Op::kExpNonPositive) options.absolute = 1.1756e-38;  // zero a little above the smallest normal number
  return options;
}

class PointwiseTest : public ::testing::TestWithParam<OpRow> {};

TEST_P(PointwiseTest, AllTypes) {
  const OpRow row = GetParam();
  for (const DType dtype : TypesOf(row)) {
    for (const int64_t length : {1, 7, 8, 9, 31, 67, 500}) {
      CheckOptions options = OptionsFor(row.op);
      options.seed = length;
      CheckKernel(OneOp(row.op, dtype, length), options);
    }
    if (HasFailure()) return;
  }
}

std::vector<OpRow> PointwiseRows() {
  std::vector<OpRow> rows;
  for (const OpRow& row : kRows) {
    if (IsPointwise(row)) rows.push_back(row);
  }
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Ops, PointwiseTest, ::testing::ValuesIn(PointwiseRows()),
                         [](const auto& info) { return std::string(loop::OpName(info.param.op)); });

constexpr DType kAllTypes[] = {
#define FRAMEJIT_LOOP_DTYPE(name, text, bytes, klass) DType::k##name,
#include "backends/loop/dtypes.def"
#undef FRAMEJIT_LOOP_DTYPE
};

TEST(CastTest, EveryPairOfTypes) {
  for (const DType from : kAllTypes) {
    for (const DType to : kAllTypes) {
      for (const int64_t length : {1, 13, 40}) {
        KernelBuilder b({length});
        b.Store(b.AddOutput(to), {1}, b.Load(b.AddInput(from), {1}));
        CheckKernel(MustFinish(std::move(b)));
      }
      if (HasFailure()) FAIL() << loop::DTypeName(from) << " to " << loop::DTypeName(to);
    }
  }
}

// Every length through the tails of every storage width.
TEST(TailTest, EveryLength) {
  for (const DType dtype : kAllTypes) {
    for (int64_t length = 0; length <= 67; ++length) {
      KernelBuilder b({length});
      const int32_t in = b.AddInput(dtype);
      b.Store(b.AddOutput(dtype), {1}, b.Load(in, {1}));
      CheckKernel(MustFinish(std::move(b)));
      if (HasFailure()) FAIL() << loop::DTypeName(dtype) << " length " << length;
    }
  }
}

TEST(ConstantTest, OnEitherSideAndAsValue) {
  for (const DType dtype : {DType::kInt32, DType::kInt64, DType::kFloat32, DType::kFloat64}) {
    KernelBuilder b({37});
    const ValueId x = b.Load(b.AddInput(dtype), {1});
    const ValueId three = b.Const(dtype, 3);
    b.Store(b.AddOutput(dtype), {1}, b.Binary(Op::kSub, three, b.Binary(Op::kMul, x, three)));
    b.Store(b.AddOutput(DType::kBool), {1}, b.Binary(Op::kLt, three, x));
    b.Store(b.AddOutput(dtype), {1}, three);
    b.Store(b.AddOutput(dtype), {1}, b.Select(b.Binary(Op::kGe, x, three), x, three));
    CheckKernel(MustFinish(std::move(b)));
  }
}

TEST(MxcsrTest, CallersFlushToZeroIsHonoured) {
  const Kernel kernel = OneOp(Op::kMul, DType::kFloat32, 20);
  KernelCompiler compiler;
  const auto compiled = compiler.Compile(kernel);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  std::vector<float> x(20, 1e-30f), y(20, 1e-10f), out(20);
  void* buffers[] = {x.data(), y.data(), out.data()};
  (*compiled)->Run(buffers, 0, 20);
  EXPECT_NE(out[0], 0.0f);
  const unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8000);
  (*compiled)->Run(buffers, 0, 20);
  EXPECT_EQ(__builtin_ia32_stmxcsr() & 0x8000u, 0x8000u);
  __builtin_ia32_ldmxcsr(before);
  EXPECT_EQ(out[0], 0.0f);
}

}  // namespace
}  // namespace framejit::testing
