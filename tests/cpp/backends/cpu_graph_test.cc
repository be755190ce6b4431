// Whole graphs on the cpu backend against interp: library calls, views, mutations, random numbers, the arena, threads.
#include <gtest/gtest.h>

#include <thread>

#include "backends/cpu/cpu_backend.h"
#include "tests/cpp/backends/graph_recorder.h"

namespace framejit {
namespace {

at::Tensor Random(at::IntArrayRef sizes, at::ScalarType type = at::kFloat, uint64_t seed = 1) {
  at::manual_seed(seed);
  return (at::randn(sizes, at::kDouble) * 2).to(type);
}

// Linear, gelu, linear, residual, layer norm.
GraphRecorder FeedForward() {
  GraphRecorder r;
  Arg x = r.Input(Random({2, 6, 16}));
  Arg w1 = r.Input(Random({32, 16}, at::kFloat, 2)), b1 = r.Input(Random({32}, at::kFloat, 3));
  Arg w2 = r.Input(Random({16, 32}, at::kFloat, 4)), b2 = r.Input(Random({16}, at::kFloat, 5));
  Arg flat = r.Call("aten::view", {x, {12, 16}});
  Arg hidden = r.Call("aten::addmm", {b1, flat, r.Call("aten::t", {w1})});
  Arg active = r.Call("aten::gelu", {r.Call("aten::view", {hidden, {2, 6, 32}}), "none"});
  Arg out = r.Call("aten::addmm", {b2, r.Call("aten::view", {active, {12, 32}}), r.Call("aten::t", {w2})});
  Arg sum = r.Call("aten::add.Tensor", {r.Call("aten::view", {out, {2, 6, 16}}), x});
  r.Return(r.CallAll("aten::native_layer_norm", {sum, {16}, Arg::None(), Arg::None(), 1e-5})[0]);
  return r;
}

TEST(CpuGraph, FeedForward) {
  Outcome outcome = ExpectCpuEqualsInterp(FeedForward());
  EXPECT_EQ(CountKernels(outcome), 2) << outcome.description;
  EXPECT_EQ(CountCalls(outcome), 2) << outcome.description;
}

TEST(CpuGraph, SecondCallReusesTheFrame) {
  GraphRecorder r = FeedForward();
  CompileRequest request;
  request.graph = &r.graph;
  auto compiled = MakeCpuBackend()->Compile(request);
  ASSERT_TRUE(compiled.ok());
  std::vector<at::Tensor> first, second;
  (*compiled)->Run(r.inputs, first);
  at::Tensor copy = first[0].clone();
  (*compiled)->Run(r.inputs, second);
  EXPECT_TRUE(at::equal(first[0], copy)) << "an output must not live in memory of the graph";
  EXPECT_TRUE(at::equal(second[0], copy));
}

TEST(CpuGraph, ThreadsRunTheSameGraph) {
  GraphRecorder r = FeedForward();
  CompileRequest request;
  request.graph = &r.graph;
  auto compiled = MakeCpuBackend()->Compile(request);
  ASSERT_TRUE(compiled.ok());
  std::vector<at::Tensor> expected;
  (*compiled)->Run(r.inputs, expected);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        std::vector<at::Tensor> outputs;
        (*compiled)->Run(r.inputs, outputs);
        if (!at::allclose(outputs[0], expected[0])) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST(CpuGraph, LibraryCallsBetweenKernels) {
  GraphRecorder r;
  Arg x = r.Input(Random({2, 3, 10, 10})), w = r.Input(Random({4, 3, 3, 3}, at::kFloat, 2));
  Arg mean = r.Input(Random({4}, at::kFloat, 3)), var = r.Input(Random({4}, at::kFloat, 4).abs());
  Arg conv = r.Call("aten::convolution", {x, w, Arg::None(), {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1});
  Arg norm = r.CallAll("aten::_native_batch_norm_legit_no_training",
                       {conv, Arg::None(), Arg::None(), mean, var, 0.1, 1e-5})[0];
  Arg relu = r.Call("aten::relu", {norm});
  Arg both = r.Call("aten::cat", {Arg::List({relu.values[0], conv.values[0]}), 1});
  r.Return(r.Call("aten::mean.dim", {both, {2, 3}, false}));
  ExpectCpuEqualsInterp(r);
}

TEST(CpuGraph, IndexingAndEmbedding) {
  GraphRecorder r;
  Arg table = r.Input(Random({20, 8}));
  Arg ids = r.Input(at::arange(6, at::kLong).view({2, 3}));
  Arg rows = r.Call("aten::embedding", {table, ids});
  Arg doubled = r.Call("aten::mul.Scalar", {rows, 2});
  Arg picked = r.Call("aten::index.Tensor", {doubled, Arg::List({kNoValue, r.Call("aten::arange", {2}).values[0]})});
  r.Return(r.Call("aten::add.Scalar", {picked, 1}));
  ExpectCpuEqualsInterp(r);
}

// The gradient of a table: returned, where it is made of fresh pages, and in memory of the graph, where it is not.
TEST(CpuGraph, EmbeddingGradients) {
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (at::ScalarType index : {at::kInt, at::kLong}) {
      for (int rows : {5, 9000}) {
        GraphRecorder r;
        Arg gradient = r.Input(Random({7, 2, 33}, type));
        Arg ids = r.Input(at::arange(14, index).remainder(4).view({7, 2}));
        Arg table = r.Call("aten::embedding_dense_backward", {gradient, ids, rows, 3, false});
        Arg inside = r.Call("aten::embedding_dense_backward", {gradient, ids, rows, -1, false});
        r.Return(table);
        r.Return(r.Call("aten::mul.Scalar", {inside, 2}));
        r.Return(r.Call("aten::embedding_dense_backward", {gradient, ids, rows, -1, /*scale_grad_by_freq=*/true}));
        Outcome outcome = ExpectCpuEqualsInterp(r);
        EXPECT_TRUE(at::equal(outcome.outputs[0], r.Recorded(table.values[0])));
        outcome.outputs[0].resize_({3});
      }
    }
  }
}

TEST(CpuGraph, ViewsAreReturnedAsViews) {
  GraphRecorder r;
  at::Tensor input = Random({4, 6});
  Arg x = r.Input(input);
  Arg doubled = r.Call("aten::mul.Scalar", {x, 2});
  r.Return(r.Call("aten::t", {doubled}));
  r.Return(doubled);
  r.Return(r.Call("aten::slice.Tensor", {x, 0, 1, 3}));
  for (Arg& part : r.CallAll("aten::split.Tensor", {doubled, 2, 1})) r.Return(part);
  r.Return(x);
  Outcome outcome = ExpectCpuEqualsInterp(r);
  EXPECT_TRUE(outcome.outputs[0].is_alias_of(outcome.outputs[1]));
  EXPECT_TRUE(outcome.outputs[2].is_alias_of(outcome.inputs[0]));
  EXPECT_TRUE(outcome.outputs[2].is_view());
  EXPECT_TRUE(outcome.outputs[4].is_alias_of(outcome.outputs[1]));
  EXPECT_TRUE(outcome.outputs[6].is_same(outcome.inputs[0]));
  uint32_t version = outcome.inputs[0]._version();
  outcome.outputs[2].add_(1);
  EXPECT_EQ(outcome.inputs[0]._version(), version + 1) << "a view shares its base's version counter";
}

TEST(CpuGraph, MutationsComeLast) {
  GraphRecorder r;
  Arg a = r.Input(Random({3, 5})), b = r.Input(Random({3, 5}, at::kFloat, 2));
  Arg sum = r.Call("aten::add.Tensor", {a, b});
  r.Mutate(a, b);  // a and b change places
  r.Mutate(b, a);
  r.Return(sum);
  Outcome outcome = ExpectCpuEqualsInterp(r);
  EXPECT_TRUE(at::equal(outcome.inputs[0], r.inputs[1]));
  EXPECT_TRUE(at::equal(outcome.inputs[1], r.inputs[0]));
}

TEST(CpuGraph, MutationByAKernel) {
  GraphRecorder r;
  Arg state = r.Input(Random({8})), x = r.Input(Random({8}, at::kFloat, 2));
  Arg next = r.Call("aten::lerp.Scalar", {state, x, 0.1});
  r.Mutate(state, next);
  r.Return(state);
  Outcome outcome = ExpectCpuEqualsInterp(r);
  EXPECT_TRUE(outcome.outputs[0].is_same(outcome.inputs[0]));
  EXPECT_EQ(outcome.inputs[0]._version(), 1u);
}

TEST(CpuGraph, RandomNumbersAreDrawnInProgramOrder) {
  GraphRecorder r;
  Arg x = r.Input(Random({4, 4}));
  Arg first = r.Call("aten::bernoulli.p", {x, 0.5});
  Arg noise = r.Call("aten::rand", {{4, 4}});
  Arg mixed = r.Call("aten::mul.Tensor", {first, noise});
  Arg more = r.Call("aten::randn_like", {mixed});
  r.Return(r.Call("aten::add.Tensor", {mixed, more}));
  r.Return(noise);
  ExpectCpuEqualsInterp(r);
}

TEST(CpuGraph, EmptyAndZeroDimensionalTensors) {
  GraphRecorder r;
  Arg none = r.Input(at::empty({0, 4})), one = r.Input(Random({}));
  r.Return(r.Call("aten::exp", {r.Call("aten::add.Tensor", {none, one})}));
  r.Return(r.Call("aten::sum", {none}));
  r.Return(r.Call("aten::exp", {one}));
  ExpectCpuEqualsInterp(r);
}

TEST(CpuGraph, ConstantsAreNotHandedOut) {
  GraphRecorder r;
  at::Tensor held = Random({3, 3});
  Arg constant = r.Constant(held), x = r.Input(Random({3, 3}, at::kFloat, 2));
  r.Return(constant);
  r.Return(r.Call("aten::t", {constant}));
  r.Return(r.Call("aten::mm", {x, r.Call("aten::t", {constant})}));
  Outcome outcome = ExpectCpuEqualsInterp(r);
  EXPECT_FALSE(outcome.outputs[0].is_alias_of(held));
  EXPECT_TRUE(outcome.outputs[1].is_alias_of(outcome.outputs[0]));
}

TEST(CpuGraph, ValuesInReducedPrecisionRoundAfterEachOperator) {
  GraphRecorder r;
  Arg x = r.Input(Random({64}, at::kBFloat16)), y = r.Input(Random({64}, at::kBFloat16, 2));
  Arg product = r.Call("aten::mul.Tensor", {x, y});
  r.Return(r.Call("aten::sub.Tensor", {r.Call("aten::add.Tensor", {product, x}), x}));
  EXPECT_EQ(CountKernels(ExpectCpuEqualsInterp(r)), 1);
}

TEST(CpuGraph, GroupsDoNotDependOnThemselves) {
  GraphRecorder r;
  Arg x = r.Input(Random({8, 8}));
  Arg a = r.Call("aten::exp", {x});
  Arg m = r.Call("aten::mm", {a, x});
  r.Return(r.Call("aten::add.Tensor", {a, m}));
  r.Return(r.Call("aten::mul.Tensor", {r.Call("aten::tanh", {m}), r.Call("aten::neg", {a})}));
  ExpectCpuEqualsInterp(r);
}

TEST(CpuGraph, AnErrorLeavesInputsAlone) {
  GraphRecorder r;
  at::Tensor ids = at::zeros({2}, at::kLong);
  Arg table = r.Input(Random({4, 3})), index = r.Input(ids), state = r.Input(at::zeros({2, 3}));
  Arg rows = r.Call("aten::embedding", {table, index});
  r.Mutate(state, r.Call("aten::add.Tensor", {rows, state}));
  CompileRequest request;
  request.graph = &r.graph;
  auto compiled = MakeCpuBackend()->Compile(request);
  ASSERT_TRUE(compiled.ok());
  std::vector<at::Tensor> outputs, bad = r.inputs;
  bad[1] = at::full({2}, 9, at::kLong);
  EXPECT_THROW((*compiled)->Run(bad, outputs), c10::Error);
  EXPECT_TRUE(at::equal(bad[2], at::zeros({2, 3})));
}

}  // namespace
}  // namespace framejit
