// Pointwise operators of the cpu backend against interp: every operator on every dtype that ATen takes for it.
#include <gtest/gtest.h>

#include <limits>

#include "tests/cpp/backends/graph_recorder.h"

namespace framejit {
namespace {

const at::ScalarType kFloats[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16};
const at::ScalarType kIntegers[] = {at::kByte, at::kChar, at::kShort, at::kInt, at::kLong};
const at::ScalarType kAll[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kByte,
                               at::kChar,  at::kShort,  at::kInt,  at::kLong,     at::kBool};

// Numbers of all signs with NaN, infinities and zeros among them where the type has them.
at::Tensor Sample(at::ScalarType type, at::IntArrayRef sizes, uint64_t seed = 1) {
  at::manual_seed(seed);
  at::Tensor values = at::randn(sizes, at::kDouble) * 3;
  if (type == at::kBool) return values > 0;
  if (!at::isFloatingType(type)) return (values * 5).to(at::kLong).to(type);
  if (values.numel() >= 8) {
    at::Tensor flat = values.view(-1);
    flat[0] = std::numeric_limits<double>::quiet_NaN();
    flat[1] = std::numeric_limits<double>::infinity();
    flat[2] = -std::numeric_limits<double>::infinity();
    flat[3] = 0.0;
    flat[4] = -0.0;
  }
  return values.to(type);
}

// Records `op`; false where ATen refuses these operands.
bool Record(GraphRecorder& recorder, const std::string& op, const std::vector<Arg>& operands) {
  try {
    recorder.Return(recorder.Call(op, operands));
    return true;
  } catch (const c10::Error&) {
    return false;
  }
}

void CheckUnary(const std::string& op, at::Tensor sample, std::vector<Arg> rest) {
  SCOPED_TRACE(op + " " + c10::toString(sample.scalar_type()));
  GraphRecorder recorder;
  std::vector<Arg> operands = {recorder.Input(std::move(sample))};
  operands.insert(operands.end(), rest.begin(), rest.end());
  if (Record(recorder, op, operands)) ExpectCpuEqualsInterp(recorder);
}

void CheckUnary(const std::string& op, at::ScalarType type, std::vector<Arg> rest = {}) {
  CheckUnary(op, Sample(type, {3, 37}), std::move(rest));
}

TEST(CpuPointwise, UnaryOperators) {
  for (const char* op :
       {"abs",   "neg",     "sign", "floor", "ceil",        "round",       "trunc", "exp",        "exp2",
        "expm1", "log",     "log2", "log10", "log1p",       "sqrt",        "rsqrt", "reciprocal", "sin",
        "cos",   "tan",     "asin", "acos",  "atan",        "sinh",        "cosh",  "tanh",       "erf",
        "erfc",  "sigmoid", "relu", "isnan", "logical_not", "bitwise_not", "clone"}) {
    for (at::ScalarType type : kAll) CheckUnary(std::string("aten::") + op, type);
  }
}

TEST(CpuPointwise, Activations) {
  for (at::ScalarType type : kFloats) {
    // Of infinity, ATen's vectorised kernel makes NaN on some machines, where its scalar one has the limit.
    at::Tensor infinite = at::full({64}, std::numeric_limits<double>::infinity(), at::TensorOptions(type));
    at::Tensor sample = Sample(type, {3, 37});
    if (at::gelu(infinite).isnan().any().item<bool>()) sample.masked_fill_(sample.isinf(), 2);
    CheckUnary("aten::gelu", sample, {"none"});
    CheckUnary("aten::gelu", type, {"tanh"});
    CheckUnary("aten::silu", type);
    CheckUnary("aten::mish", type);
    CheckUnary("aten::leaky_relu", type, {0.1});
    CheckUnary("aten::elu", type, {1.5, 1.0, 1.0});
    CheckUnary("aten::softplus", type, {1.5, 20.0});
    CheckUnary("aten::hardtanh", type, {-1.0, 2.0});
    CheckUnary("aten::hardsigmoid", type);
    CheckUnary("aten::hardswish", type);
    CheckUnary("aten::threshold", type, {0.5, -3.0});
  }
}

TEST(CpuPointwise, ScalarOperands) {
  for (at::ScalarType type : kAll) {
    for (const char* op : {"add", "sub", "rsub"}) {
      CheckUnary(std::string("aten::") + op + ".Scalar", type, {3});
      CheckUnary(std::string("aten::") + op + ".Scalar", type, {0.3});
      CheckUnary(std::string("aten::") + op + ".Scalar", type, {0.3, 2});
    }
    for (const char* op : {"mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "fmod"}) {
      CheckUnary(std::string("aten::") + op + ".Scalar", type, {3});
      CheckUnary(std::string("aten::") + op + ".Scalar", type, {0.3});
    }
    for (double exponent : {2.0, 3.0, 0.5, -0.5, -1.0, -2.0, 0.0, 1.0, 2.5}) {
      CheckUnary("aten::pow.Tensor_Scalar", type, {exponent});
    }
    CheckUnary("aten::pow.Tensor_Scalar", type, {2});
    CheckUnary("aten::clamp", type, {-1, 2});
    CheckUnary("aten::clamp", type, {Arg::None(), 0.5});
    CheckUnary("aten::clamp_min", type, {1});
    CheckUnary("aten::clamp_max", type, {1.5});
    for (at::ScalarType to : kAll) CheckUnary("aten::_to_copy", type, {to});
  }
}

// Division and remainder of integers raise on zero, and their rounding is ATen's own.
TEST(CpuPointwise, IntegerDivision) {
  for (at::ScalarType type : kIntegers) {
    for (const char* mode : {"trunc", "floor"}) CheckUnary("aten::div.Scalar_mode", type, {3, mode});
    CheckUnary("aten::remainder.Scalar", type, {3});
    CheckUnary("aten::fmod.Scalar", type, {3});
    CheckUnary("aten::floor_divide.Scalar", type, {3});
  }
}

void CheckBinary(const std::string& op, at::Tensor a, at::Tensor b) {
  SCOPED_TRACE(op + " " + c10::toString(a.scalar_type()) + " " + c10::toString(b.scalar_type()));
  GraphRecorder recorder;
  std::vector<Arg> operands = {recorder.Input(std::move(a)), recorder.Input(std::move(b))};
  if (Record(recorder, op, operands)) ExpectCpuEqualsInterp(recorder);
}

TEST(CpuPointwise, BinaryOperatorsPromote) {
  for (const char* op : {"add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "maximum", "minimum", "eq.Tensor",
                         "lt.Tensor", "ge.Tensor", "atan2", "bitwise_and.Tensor", "logical_xor"}) {
    for (at::ScalarType a : kAll) {
      for (at::ScalarType b : kAll) CheckBinary(std::string("aten::") + op, Sample(a, {5, 9}), Sample(b, {5, 9}, 2));
    }
  }
  for (at::ScalarType type : kFloats) {
    CheckBinary("aten::pow.Tensor_Tensor", Sample(type, {5, 9}), Sample(type, {5, 9}, 2));
    CheckBinary("aten::fmod.Tensor", Sample(type, {5, 9}), Sample(type, {5, 9}, 2));
  }
}

// A zero-dimensional tensor does not raise the type of a tensor with dimensions unless its kind is higher.
TEST(CpuPointwise, ZeroDimensionalOperands) {
  for (const char* op : {"add.Tensor", "mul.Tensor", "div.Tensor", "lt.Tensor", "maximum"}) {
    for (at::ScalarType a : kAll) {
      for (at::ScalarType b : kAll) {
        CheckBinary(std::string("aten::") + op, Sample(a, {4, 11}), Sample(b, {}));
        CheckBinary(std::string("aten::") + op, Sample(a, {}), Sample(b, {4, 11}));
      }
    }
  }
  CheckBinary("aten::add.Tensor", Sample(at::kFloat, {}), Sample(at::kFloat, {}, 2));
}

TEST(CpuPointwise, WrappedNumbersAndConstants) {
  for (at::ScalarType type : kAll) {
    for (const char* op : {"add.Tensor", "mul.Tensor", "div.Tensor", "ge.Tensor"}) {
      for (bool wrapped : {true, false}) {
        GraphRecorder recorder;
        at::Tensor number = at::scalar_tensor(0.1, at::kDouble);
        number.unsafeGetTensorImpl()->set_wrapped_number(wrapped);
        Arg x = recorder.Input(Sample(type, {7, 5})), c = recorder.Constant(number);
        recorder.Return(recorder.Call(std::string("aten::") + op, {x, c}));
        SCOPED_TRACE(std::string(op) + c10::toString(type));
        ExpectCpuEqualsInterp(recorder);
      }
    }
  }
}

TEST(CpuPointwise, SelectionAndFill) {
  for (at::ScalarType type : kAll) {
    SCOPED_TRACE(c10::toString(type));
    GraphRecorder recorder;
    Arg mask = recorder.Input(Sample(at::kBool, {4, 1, 9}, 3));
    Arg x = recorder.Input(Sample(type, {4, 6, 9})), y = recorder.Input(Sample(type, {6, 1}, 2));
    recorder.Return(recorder.Call("aten::where.self", {mask, x, y}));
    recorder.Return(recorder.Call("aten::masked_fill.Scalar", {x, mask, 1}));
    recorder.Return(recorder.Call("aten::fill.Scalar", {x, 1}));
    recorder.Return(recorder.Call("aten::zeros_like", {y}));
    EXPECT_EQ(CountCalls(ExpectCpuEqualsInterp(recorder)), 0);
  }
}

TEST(CpuPointwise, Factories) {
  GraphRecorder recorder;
  recorder.Return(recorder.Call("aten::full", {{3, 4}, 2.5}));
  recorder.Return(recorder.Call("aten::zeros", {{5}, at::kInt}));
  recorder.Return(recorder.Call("aten::arange.start_step", {2, 20, 3}));
  Arg rows = recorder.Call("aten::arange", {6});
  Arg column = recorder.Call("aten::unsqueeze", {recorder.Call("aten::arange", {4}), 1});
  recorder.Return(recorder.Call("aten::le.Tensor", {column, rows}));
  ExpectCpuEqualsInterp(recorder);
}

TEST(CpuPointwise, TernaryFloatOperators) {
  for (at::ScalarType type : kFloats) {
    SCOPED_TRACE(c10::toString(type));
    GraphRecorder recorder;
    Arg a = recorder.Input(Sample(type, {4, 9})), b = recorder.Input(Sample(type, {9}, 2));
    Arg c = recorder.Input(Sample(type, {4, 1}, 3));
    recorder.Return(recorder.Call("aten::addcmul", {a, b, c, 0.7}));
    recorder.Return(recorder.Call("aten::addcdiv", {a, b, c, 0.7}));
    recorder.Return(recorder.Call("aten::lerp.Scalar", {a, b, 0.3}));
    recorder.Return(recorder.Call("aten::lerp.Tensor", {a, b, c}));
    ExpectCpuEqualsInterp(recorder);
  }
}

TEST(CpuPointwise, StridesAndBroadcasting) {
  at::Tensor base = Sample(at::kFloat, {6, 8, 10});
  const at::Tensor layouts[] = {base,
                                base.permute({2, 0, 1}),
                                base.transpose(0, 2),
                                base.slice(2, 1, 9, 2),
                                base.slice(0, 1, 5),
                                base.select(1, 3),
                                base.narrow(0, 0, 1).expand({7, 8, 10}),
                                Sample(at::kFloat, {2, 4, 3, 5}).contiguous(at::MemoryFormat::ChannelsLast)};
  for (const at::Tensor& layout : layouts) {
    GraphRecorder recorder;
    Arg x = recorder.Input(layout), y = recorder.Input(Sample(at::kFloat, {layout.size(-1)}, 2));
    Arg sum = recorder.Call("aten::add.Tensor", {x, y});
    recorder.Return(recorder.Call("aten::mul.Tensor", {recorder.Call("aten::tanh", {sum}), x}));
    Outcome outcome = ExpectCpuEqualsInterp(recorder);
    EXPECT_EQ(CountKernels(outcome), 1);
    EXPECT_EQ(CountCalls(outcome), 0);
  }
}

}  // namespace
}  // namespace framejit
