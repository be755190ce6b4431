// Reductions, softmax and normalisation of the cpu backend against interp, alone and fused with what surrounds them.
#include <gtest/gtest.h>

#include <cmath>

#include "backends/cpu/cpu_backend.h"
#include "tests/cpp/backends/graph_recorder.h"

namespace framejit {
namespace {

at::Tensor Random(at::IntArrayRef sizes, at::ScalarType type = at::kFloat, uint64_t seed = 1) {
  at::manual_seed(seed);
  return (at::randn(sizes, at::kDouble) * 2).to(type);
}

TEST(CpuRows, Reductions) {
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kInt, at::kLong, at::kBool}) {
    SCOPED_TRACE(c10::toString(type));
    GraphRecorder recorder;
    Arg x = recorder.Input(Random({5, 6, 33}, type));
    auto reduce = [&](const std::string& op, std::vector<Arg> rest, Arg of) {
      rest.insert(rest.begin(), of);
      try {
        recorder.Return(recorder.Call(op, rest));
      } catch (const c10::Error&) {
        return;  // ATen has no such reduction of this type
      }
    };
    for (bool keep : {true, false}) {
      reduce("aten::sum.dim_IntList", {{-1}, keep}, x);
      reduce("aten::sum.dim_IntList", {{1, 2}, keep}, x);
      reduce("aten::sum.dim_IntList", {{0}, keep}, x);
      reduce("aten::mean.dim", {{2}, keep}, x);
      reduce("aten::amax", {{-1}, keep}, x);
      reduce("aten::amin", {{2, 1}, keep}, x);
      reduce("aten::any.dim", {-1, keep}, x);
      reduce("aten::all.dim", {-1, keep}, x);
      reduce("aten::var.correction", {{-1}, 1, keep}, x);
      reduce("aten::std.correction", {{-1}, 0, keep}, x);
    }
    for (const char* op : {"aten::max", "aten::min", "aten::any", "aten::all"}) reduce(op, {}, x);
    // Of a thousand numbers of both signs little may be left, and that is no measure of the error.
    Arg magnitude = at::isFloatingType(type) ? recorder.Call("aten::abs", {x}) : x;
    for (const char* op : {"aten::sum", "aten::mean"}) reduce(op, {}, magnitude);
    ExpectCpuEqualsInterp(recorder);
  }
}

TEST(CpuRows, NanInMaximum) {
  GraphRecorder recorder;
  at::Tensor values = Random({4, 19});
  values[1][7] = std::nan("");
  Arg x = recorder.Input(values);
  recorder.Return(recorder.Call("aten::amax", {x, {-1}}));
  recorder.Return(recorder.Call("aten::min", {x}));
  recorder.Return(recorder.Call("aten::_softmax", {x, 1, false}));
  ExpectCpuEqualsInterp(recorder);
}

TEST(CpuRows, Softmax) {
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    for (int64_t width : {1, 2, 7, 8, 33, 1000}) {
      SCOPED_TRACE(std::string(c10::toString(type)) + " " + std::to_string(width));
      GraphRecorder recorder;
      at::Tensor values = Random({3, 4, width}, type);
      if (width > 2) values[0][1].fill_(-std::numeric_limits<double>::infinity());
      Arg x = recorder.Input(values);
      recorder.Return(recorder.Call("aten::_softmax", {x, -1, false}));
      recorder.Return(recorder.Call("aten::_log_softmax", {x, 2, false}));
      recorder.Return(recorder.Call("aten::_softmax", {x, 0, false}));
      ExpectCpuEqualsInterp(recorder);
    }
  }
}

TEST(CpuRows, SoftmaxTakesItsScaleAndMask) {
  GraphRecorder recorder;
  Arg scores = recorder.Input(Random({2, 4, 9, 16})), mask = recorder.Input(Random({2, 1, 1, 16}, at::kFloat, 2));
  Arg scaled = recorder.Call("aten::div.Scalar", {scores, 4.0});
  Arg masked = recorder.Call("aten::add.Tensor", {scaled, mask});
  recorder.Return(recorder.Call("aten::_softmax", {masked, -1, false}));
  Outcome outcome = ExpectCpuEqualsInterp(recorder);
  EXPECT_EQ(CountKernels(outcome), 1);
  EXPECT_EQ(CountCalls(outcome), 0);
}

TEST(CpuRows, LayerNorm) {
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (bool affine : {true, false}) {
      SCOPED_TRACE(c10::toString(type));
      GraphRecorder recorder;
      Arg x = recorder.Input(Random({3, 5, 48}, type));
      Arg weight = affine ? recorder.Input(Random({48}, type, 2)) : Arg::None();
      Arg bias = affine ? recorder.Input(Random({48}, type, 3)) : Arg::None();
      for (Arg& result : recorder.CallAll("aten::native_layer_norm", {x, {48}, weight, bias, 1e-5})) {
        recorder.Return(result);
      }
      Outcome outcome = ExpectCpuEqualsInterp(recorder);
      EXPECT_EQ(CountKernels(outcome), 1);
    }
  }
}

TEST(CpuRows, LayerNormOverTwoDimensions) {
  GraphRecorder recorder;
  Arg x = recorder.Input(Random({3, 5, 16})), weight = recorder.Input(Random({5, 16}, at::kFloat, 2));
  recorder.Return(recorder.CallAll("aten::native_layer_norm", {x, {5, 16}, weight, Arg::None(), 1e-5})[0]);
  ExpectCpuEqualsInterp(recorder);
}

TEST(CpuRows, ResidualLayerNormAndActivationAreOneKernel) {
  GraphRecorder recorder;
  Arg x = recorder.Input(Random({4, 7, 64})), y = recorder.Input(Random({4, 7, 64}, at::kFloat, 2));
  Arg weight = recorder.Input(Random({64}, at::kFloat, 3)), bias = recorder.Input(Random({64}, at::kFloat, 4));
  Arg sum = recorder.Call("aten::add.Tensor", {x, y});
  Arg norm = recorder.CallAll("aten::native_layer_norm", {sum, {64}, weight, bias, 1e-12})[0];
  recorder.Return(recorder.Call("aten::gelu", {norm, "none"}));
  recorder.Return(sum);
  EXPECT_EQ(CountKernels(ExpectCpuEqualsInterp(recorder)), 1);
}

TEST(CpuRows, RmsNormIsOneKernel) {
  for (at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    GraphRecorder recorder;
    Arg x = recorder.Input(Random({2, 9, 32}, type)), weight = recorder.Input(Random({32}, type, 2));
    Arg wide = recorder.Call("aten::_to_copy", {x, at::kFloat});
    Arg mean = recorder.Call("aten::mean.dim", {recorder.Call("aten::pow.Tensor_Scalar", {wide, 2}), {-1}, true});
    Arg scale = recorder.Call("aten::rsqrt", {recorder.Call("aten::add.Scalar", {mean, 1e-6})});
    Arg normal = recorder.Call("aten::_to_copy", {recorder.Call("aten::mul.Tensor", {wide, scale}), type});
    recorder.Return(recorder.Call("aten::mul.Tensor", {weight, normal}));
    EXPECT_EQ(CountKernels(ExpectCpuEqualsInterp(recorder)), 1);
  }
}

TEST(CpuRows, RowValuesReachTheirElementsThroughUnsqueeze) {
  GraphRecorder recorder;
  Arg x = recorder.Input(Random({6, 24}));
  Arg mean = recorder.Call("aten::mean.dim", {x, {1}, false});
  Arg column = recorder.Call("aten::unsqueeze", {mean, 1});
  recorder.Return(recorder.Call("aten::sub.Tensor", {x, column}));
  EXPECT_EQ(CountKernels(ExpectCpuEqualsInterp(recorder)), 1);
}

// A square domain, where a row value could be mistaken for a column.
TEST(CpuRows, RowsAndColumnsOfASquare) {
  GraphRecorder recorder;
  Arg x = recorder.Input(Random({16, 16}));
  Arg mean = recorder.Call("aten::mean.dim", {x, {1}, false});
  recorder.Return(recorder.Call("aten::sub.Tensor", {x, mean}));
  recorder.Return(recorder.Call("aten::add.Tensor", {recorder.Call("aten::exp", {x}), recorder.Call("aten::t", {x})}));
  Arg e = recorder.Call("aten::exp", {x});
  recorder.Return(recorder.Call("aten::add.Tensor", {e, recorder.Call("aten::t", {e})}));
  ExpectCpuEqualsInterp(recorder);
}

// Reductions down columns, with what they reduce made and stored by the same kernel.
TEST(CpuRows, Columns) {
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (int64_t columns : {5, 16, 33, 100}) {
      GraphRecorder recorder;
      Arg x = recorder.Input(Random({3, 70, columns}, type));
      Arg active = recorder.Call("aten::relu", {x});
      recorder.Return(recorder.Call("aten::sum.dim_IntList", {active, {0, 1}}));
      recorder.Return(active);
      Outcome outcome = ExpectCpuEqualsInterp(recorder);
      const bool few = columns < 16;  // the sum of those is the library's
      EXPECT_EQ(CountKernels(outcome), 1) << outcome.description;
      EXPECT_EQ(CountCalls(outcome), few ? 1 : 0) << outcome.description;
    }
  }
}

TEST(CpuRows, FullSumsOfBothSigns) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    at::Tensor values = Random({8, 4, 31}, at::kFloat, seed);
    GraphRecorder recorder;
    Arg x = recorder.Input(values);
    recorder.Return(recorder.Call("aten::sum", {x}));
    const at::Tensor sum = RunOn(*MakeCpuBackend(), recorder).outputs[0].to(at::kDouble);
    const double error = (sum - values.to(at::kDouble).sum()).abs().item<double>();
    EXPECT_LE(error, std::ldexp(values.to(at::kDouble).abs().sum().item<double>(), -25)) << seed;
  }
}

TEST(CpuRows, StandardiseColumns) {
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{40, 40}, {7, 64}, {2, 300, 17}}) {
    GraphRecorder recorder;
    const int dim = static_cast<int>(sizes.size()) - 2;
    Arg x = recorder.Input(Random(sizes));
    Arg mean = recorder.Call("aten::mean.dim", {x, {dim}, true});
    Arg deviation = recorder.Call("aten::std.correction", {x, {dim}, 1, true});
    Arg centred = recorder.Call("aten::sub.Tensor", {x, mean});
    recorder.Return(recorder.Call("aten::div.Tensor", {centred, deviation}));
    Outcome outcome = ExpectCpuEqualsInterp(recorder);
    EXPECT_EQ(CountKernels(outcome), 1) << outcome.description;  // the reductions are siblings
    EXPECT_EQ(CountCalls(outcome), 0) << outcome.description;
  }
}

// The gradient of the input is a kernel over rows, those of the parameters are one over columns.
TEST(CpuRows, LayerNormGradients) {
  for (at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (bool affine : {true, false}) {
      GraphRecorder recorder;
      Arg x = recorder.Input(Random({2, 9, 24}, type)), gradient = recorder.Input(Random({2, 9, 24}, type, 2));
      Arg weight = affine ? recorder.Input(Random({24}, type, 3)) : Arg::None();
      Arg bias = affine ? recorder.Input(Random({24}, type, 4)) : Arg::None();
      auto forward = recorder.CallAll("aten::native_layer_norm", {x, {24}, weight, bias, 1e-5});
      Arg mask = c10::IValue(c10::List<bool>({true, affine, affine}));
      auto gradients = recorder.CallAll("aten::native_layer_norm_backward",
                                        {gradient, x, {24}, forward[1], forward[2], weight, bias, mask});
      for (size_t i = 0; i < (affine ? 3u : 1u); ++i) recorder.Return(gradients[i]);
      Outcome outcome = ExpectCpuEqualsInterp(recorder);
      EXPECT_EQ(CountCalls(outcome), 0) << outcome.description;
    }
  }
}

}  // namespace
}  // namespace framejit
