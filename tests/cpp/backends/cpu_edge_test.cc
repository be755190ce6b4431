// Corners where a compiled graph can differ from eager without being far off: signs of zeros, dimensions of scalars,
// strides that mean nothing, offsets into storages, views that eager hides.
#include <gtest/gtest.h>

#include <limits>

#include "tests/cpp/backends/graph_recorder.h"

namespace framejit {
namespace {

at::Tensor Random(at::IntArrayRef sizes, at::ScalarType type = at::kFloat, uint64_t seed = 1) {
  at::manual_seed(seed);
  return (at::randn(sizes, at::kDouble) * 2).to(type);
}

// Zeros of both signs, as whole vectors and as a rest.
at::Tensor Zeros(at::ScalarType type) {
  at::Tensor zeros = at::zeros({37}, type);
  zeros.slice(0, 0, 37, 2).neg_();
  return zeros;
}

// A NaN has none that means anything.
at::Tensor Signs(const at::Tensor& values) { return values.signbit().logical_and(values.isnan().logical_not()); }

void ExpectSameSigns(const std::string& op, std::vector<Arg> rest) {
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    GraphRecorder r;
    at::Tensor input = Zeros(type);
    std::vector<Arg> operands = {r.Input(input)};
    operands.insert(operands.end(), rest.begin(), rest.end());
    r.Return(r.Call(op, operands));
    Outcome outcome = ExpectCpuEqualsInterp(r);
    EXPECT_EQ(CountKernels(outcome), 1) << op;
    at::Tensor expected = r.Recorded(r.graph.outputs[0]);
    EXPECT_TRUE(at::equal(Signs(outcome.outputs[0]), Signs(expected))) << op << " " << c10::toString(type);
  }
}

TEST(CpuEdge, SignsOfZeros) {
  for (const char* op : {"neg", "abs", "relu", "tanh", "sin", "erf", "expm1", "floor", "round", "trunc", "sqrt",
                         "log1p", "asin", "sinh", "silu", "hardswish"}) {
    ExpectSameSigns(std::string("aten::") + op, {});
  }
  for (double bound : {0.0, -0.0}) {
    ExpectSameSigns("aten::clamp", {bound, Arg::None()});
    ExpectSameSigns("aten::clamp", {Arg::None(), bound});
    ExpectSameSigns("aten::clamp", {-1.0, bound});
    ExpectSameSigns("aten::clamp_min", {bound});
    ExpectSameSigns("aten::clamp_max", {bound});
    ExpectSameSigns("aten::hardtanh", {bound, 1.0});
    ExpectSameSigns("aten::add.Scalar", {bound});
    ExpectSameSigns("aten::sub.Scalar", {bound});
    ExpectSameSigns("aten::mul.Scalar", {bound});
  }
}

TEST(CpuEdge, PowersOfTheEndsOfFloats) {
  double infinity = std::numeric_limits<double>::infinity();
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    for (double exponent : {0.5, -0.5, -1.0, -2.0, 2.0, 3.0, 0.0, 2.5}) {
      SCOPED_TRACE(testing::Message() << c10::toString(type) << " ** " << exponent);
      GraphRecorder r;
      Arg x = r.Input(at::tensor({0.0, -0.0, infinity, -infinity, 2.0, -2.0, 0.25, 1.0}, at::kDouble).to(type));
      r.Return(r.Call("aten::pow.Tensor_Scalar", {x, exponent}));
      Outcome outcome = ExpectCpuEqualsInterp(r);
      EXPECT_TRUE(at::equal(Signs(outcome.outputs[0]), Signs(r.Recorded(r.graph.outputs[0]))));
    }
  }
}

TEST(CpuEdge, ReductionsOfScalars) {
  GraphRecorder r;
  Arg x = r.Input(Random({}));
  for (int64_t dim : {0, -1}) {
    r.Return(r.Call("aten::sum.dim_IntList", {x, {dim}, false}));
    r.Return(r.Call("aten::amax", {x, {dim}, true}));
    r.Return(r.Call("aten::mean.dim", {x, {dim}, false}));
    r.Return(r.Call("aten::any.dim", {x, static_cast<int>(dim), false}));
    r.Return(r.Call("aten::_softmax", {x, static_cast<int>(dim), false}));
    r.Return(r.Call("aten::var.correction", {x, {dim}, 0, false}));
  }
  r.Return(r.Call("aten::sum", {x}));
  ExpectCpuEqualsInterp(r);
}

TEST(CpuEdge, NoDimensionsGiven) {
  GraphRecorder r;
  at::Tensor input = Random({3, 5});
  input[1][2] = 0;
  Arg x = r.Input(input), none(c10::IValue(std::vector<int64_t>{}));
  for (const char* op : {"aten::any.dims", "aten::all.dims"}) {
    r.Return(r.Call(op, {x, none, false}));  // reduces nothing
    r.Return(r.Call(op, {x, Arg::None(), false}));
    r.Return(r.Call(op, {x, {0, 1}, true}));
  }
  r.Return(r.Call("aten::sum.dim_IntList", {x, none, true}));  // reduces all
  r.Return(r.Call("aten::amax", {x, none, false}));
  ExpectCpuEqualsInterp(r);
}

TEST(CpuEdge, StridesOfDimensionsOfOneElement) {
  for (auto [sizes, strides] : std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>>{
           {{3, 1}, {1, 3}}, {{3, 1}, {1, 7}}, {{1, 3}, {1, 1}}, {{2, 1, 2}, {2, 9, 1}}, {{1, 1}, {7, 3}}}) {
    GraphRecorder r;
    Arg x = r.Input(at::empty_strided(sizes, strides).fill_(2));
    r.Return(r.Call("aten::clone", {x}));
    r.Return(r.Call("aten::mul.Scalar", {x, 1.5}));
    r.Return(r.Call("aten::gt.Scalar", {x, 0}));
    r.Return(r.Call("aten::exp", {r.Call("aten::add.Tensor", {x, x})}));
    ExpectCpuEqualsInterp(r);
  }
}

TEST(CpuEdge, AsStridedCountsFromTheStartOfItsStorage) {
  GraphRecorder r;
  Arg x = r.Input(Random({6, 6}));
  // Several values live at once, so that not all begin where the arena does.
  Arg a = r.Call("aten::mm", {x, x}), b = r.Call("aten::mm", {a, x}), c = r.Call("aten::exp", {b});
  Arg part = r.Call("aten::slice.Tensor", {c, 0, 2, 5});
  for (int64_t offset : {0, 3}) {
    Arg strided = r.Call("aten::as_strided", {part, {2, 3}, {4, 1}, static_cast<int>(offset)});
    r.Return(r.Call("aten::mul.Scalar", {strided, 2}));
  }
  r.Return(r.Call("aten::as_strided_scatter", {b, r.Call("aten::zeros", {{2, 2}}), {2, 2}, {1, 6}, 7}));
  r.Return(r.Call("aten::add.Tensor", {r.Call("aten::add.Tensor", {a, b}), c}));
  ExpectCpuEqualsInterp(r);
}

TEST(CpuEdge, ViewsInsideOperatorsAreNotViewsOutside) {
  GraphRecorder r;
  Arg x = r.Input(Random({3, 4}));
  Arg copied = r.Call("aten::clone", {r.Call("aten::t", {x}), 0});
  r.Return(r.Call("aten::_unsafe_view", {copied, {12}}));
  r.Return(r.Call("aten::stack", {Arg::List({x.values[0], x.values[0]}), 0}));
  r.Return(r.Call("aten::slice_scatter", {x, r.Call("aten::zeros", {{3, 2}}), 1, 0, 2}));
  r.Return(r.Call("aten::t", {copied}));
  Outcome outcome = ExpectCpuEqualsInterp(r);
  EXPECT_FALSE(outcome.outputs[0].is_view());
  EXPECT_FALSE(outcome.outputs[1].is_view());
  EXPECT_FALSE(outcome.outputs[2].is_view());
  EXPECT_TRUE(outcome.outputs[3].is_view());
}

TEST(CpuEdge, CastsOutOfRange) {
  for (at::ScalarType from : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kLong, at::kInt}) {
    GraphRecorder r;
    Arg x = r.Input(at::tensor({-1.0, 0.5, -0.5, 254.9, 255.0, 127.0, -128.0, -3.0, 3e4, 100.0}, at::kDouble).to(from));
    for (at::ScalarType to : {at::kByte, at::kChar, at::kShort, at::kInt, at::kLong, at::kBool, at::kHalf}) {
      r.Return(r.Call("aten::_to_copy", {x, to}));
    }
    ExpectCpuEqualsInterp(r);
  }
}

}  // namespace
}  // namespace framejit
