// Graphs that are launched at once, without a GPU: on a device that stands for one, whose kernels are the CPU's and
// whose captures keep launches with their addresses, as CUDA's do. Torch's captures are tests/python/cuda's matter.
#include "backends/cuda/graph_launches.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>

#include "backends/cpu/cpu_target.h"
#include "graph/parse.h"

namespace framejit::cuda {
namespace {

// What a capture collects: launches, and the memory that was taken meanwhile, which stays its own.
struct Tape {
  std::vector<std::function<void()>> launches;
  std::vector<at::Tensor> tensors;
  std::vector<std::unique_ptr<char[]>> arenas;
};
Tape* open_tape = nullptr;

class TapedCode : public native::KernelCode {
 public:
  explicit TapedCode(std::shared_ptr<const native::KernelCode> code) : code_(std::move(code)) {}
  void Run(void* const* buffers, void* queue) const override {
    if (open_tape == nullptr) return code_->Run(buffers, queue);
    // As many as any kernel of these tests has.
    std::vector<void*> kept(buffers, buffers + kBuffers);
    open_tape->launches.push_back([code = code_, kept, queue] { code->Run(kept.data(), queue); });
  }
  double nanoseconds() const override { return code_->nanoseconds(); }
  const std::string& name() const override { return code_->name(); }
  const std::string& text() const override { return code_->text(); }

  static constexpr size_t kBuffers = 2;

 private:
  const std::shared_ptr<const native::KernelCode> code_;
};

class FakeTarget : public native::Target {
 public:
  c10::Device device() const override { return c10::kCPU; }
  int64_t PiecesOf(const loop::Kernel& /*kernel*/) const override { return 0; }
  std::vector<CompiledCode> Compile(absl::Span<const loop::Kernel> kernels,
                                    const native::CodeOptions& options) const override {
    for (const loop::Kernel& kernel : kernels) EXPECT_EQ(kernel.buffers.size(), TapedCode::kBuffers);
    std::vector<CompiledCode> codes = cpu::CpuTarget().Compile(kernels, options);
    for (CompiledCode& code : codes) {
      if (code.ok()) code = std::make_shared<const TapedCode>(*std::move(code));
    }
    return codes;
  }
  native::CodeCount code_count() const override { return {}; }
  native::OutCall FindOutCall(const Graph& /*graph*/, const Node& /*node*/) const override { return {}; }
  at::Tensor Allocate(const native::TensorShape& shape, bool zeroed) const override {
    at::Tensor tensor = cpu::CpuTarget().Allocate(shape, zeroed);
    if (open_tape != nullptr) open_tape->tensors.push_back(tensor);
    return tensor;
  }
  c10::DataPtr AllocateArena(size_t bytes) const override {
    if (open_tape == nullptr) return cpu::CpuTarget().AllocateArena(bytes);
    open_tape->arenas.push_back(std::make_unique<char[]>(bytes + 64));
    void* start = open_tape->arenas.back().get();
    size_t room = bytes + 64;
    return {std::align(64, bytes, start, room), c10::kCPU};
  }
  bool keeps_arenas() const override { return false; }
  void* CurrentQueue() const override { return nullptr; }
};

class FakeDevice : public LaunchDevice {
 public:
  struct FakeGraph : Graph {
    explicit FakeGraph(int& count) : count(count) {}
    void Launch() const override {
      ++count;
      for (const auto& launch : tape.launches) launch();
    }
    int& count;
    Tape tape;
  };
  struct FakeWatch : Watch {
    explicit FakeWatch(double nanoseconds) : nanoseconds(nanoseconds) {}
    void Start(const c10::Stream& /*stream*/) override {}
    void Stop(const c10::Stream& /*stream*/) override {}
    std::optional<double> Nanoseconds() const override { return nanoseconds; }
    const double nanoseconds;
  };

  absl::StatusOr<std::unique_ptr<Graph>> Capture(const c10::Stream& /*stream*/, bool /*draws*/,
                                                 const std::function<void()>& work) const override {
    if (!why_not.empty()) return absl::InternalError(why_not);
    auto graph = std::make_unique<FakeGraph>(launches);
    open_tape = &graph->tape;
    work();
    open_tape = nullptr;
    ++captures;
    return graph;
  }
  std::atomic<bool>& BusyFlag(const c10::Stream& /*stream*/) const override { return busy; }
  std::optional<c10::Stream> UsableStream(c10::Device device) const override {
    if (stream < 0) return std::nullopt;
    return c10::Stream(c10::Stream::UNSAFE, device, stream);
  }
  void Copy(c10::Device /*device*/, void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
  std::unique_ptr<Watch> NewWatch() const override { return std::make_unique<FakeWatch>(nanoseconds); }

  c10::StreamId stream = 0;  // -1: none that can be used
  std::string why_not;
  double nanoseconds = 0;  // what everything takes on the device
  mutable int captures = 0, launches = 0;
  mutable std::atomic<bool> busy{false};
};

constexpr int kFirstCalls = 2;

class GraphLaunches : public ::testing::Test {
 protected:
  std::unique_ptr<CompiledGraph> Compile(const std::string& text) {
    absl::StatusOr<Graph> graph = ParseGraph(text);
    EXPECT_TRUE(graph.ok()) << graph.status();
    auto plan = native::MakePlan(*graph, target_);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return WithGraphLaunches(std::make_unique<native::NativeGraph>(*std::move(plan)), device_);
  }

  static std::vector<at::Tensor> Run(CompiledGraph& graph, std::vector<at::Tensor> inputs) {
    std::vector<at::Tensor> outputs;
    graph.Run(inputs, outputs);
    return outputs;
  }

  FakeTarget target_;
  FakeDevice device_;
};

at::Tensor Values(double from, std::vector<int64_t> sizes = {4, 6}) {
  return at::arange(24, at::kFloat).add(from).reshape(sizes);
}

constexpr char kTwice[] = R"(
reduce_overhead
input %0: float32[4, 6] @0
%1: float32[4, 6] @1 = aten::mul.Scalar(%0, 2)
return %1
)";

TEST_F(GraphLaunches, LaterCallsLeaveResultsAlone) {
  const auto graph = Compile(kTwice);
  std::vector<at::Tensor> inputs, results;
  for (int call = 0; call < 8; ++call) {
    inputs.push_back(Values(call));
    results.push_back(Run(*graph, {inputs.back()}).at(0));
  }
  for (size_t call = 0; call < inputs.size(); ++call) EXPECT_TRUE(at::equal(results[call], inputs[call] * 2)) << call;
  EXPECT_EQ(device_.captures, 1);
  EXPECT_EQ(device_.launches, 8 - kFirstCalls);
}

TEST_F(GraphLaunches, WhatIsReadIsThisCalls) {
  const auto graph = Compile(kTwice);
  const at::Tensor x = Values(0);
  for (int call = 0; call < 5; ++call) {
    x.add_(1);
    EXPECT_TRUE(at::equal(Run(*graph, {x}).at(0), x * 2));
  }
  EXPECT_EQ(device_.captures, 1);
  for (int call = 0; call < 5; ++call) {
    const at::Tensor other = Values(100 * call);
    EXPECT_TRUE(at::equal(Run(*graph, {other}).at(0), other * 2));
  }
  EXPECT_EQ(device_.captures, 2) << "the input moved once, and is copied from then on";
}

TEST_F(GraphLaunches, StridesOfCopiedInputsStay) {
  const auto graph = Compile(R"(
reduce_overhead
input %0: float32[4, 3] strides=[6, 2] @0
%1: float32[4, 3] @1 = aten::mul.Scalar(%0, 2)
return %1
)");
  for (int call = 0; call < 6; ++call) {
    const at::Tensor x = Values(call).slice(1, 1, 6, 2);
    EXPECT_TRUE(at::equal(Run(*graph, {x}).at(0), x * 2));
  }
  EXPECT_EQ(device_.launches, 6 - kFirstCalls);
}

TEST_F(GraphLaunches, ResultsShareMemoryAsTheyDid) {
  const auto graph = Compile(R"(
reduce_overhead
input %0: float32[4, 6] @0
%1: float32[4, 6] @1 = aten::mul.Scalar(%0, 2)
%2: float32[24] @1 = aten::view(%1, [24])
return %1, %2, %0
)");
  for (int call = 0; call < 6; ++call) {
    const at::Tensor x = Values(call);
    const std::vector<at::Tensor> got = Run(*graph, {x});
    EXPECT_TRUE(at::equal(got[0], x * 2) && at::equal(got[1], x.view(24) * 2));
    EXPECT_TRUE(got[0].is_alias_of(got[1]) && got[2].is_same(x));
    got[0].zero_();
    EXPECT_EQ(got[1].sum().item<float>(), 0);
  }
  EXPECT_EQ(device_.launches, 6 - kFirstCalls);
}

// They are views in torch's sense, which the library makes.
TEST_F(GraphLaunches, ViewsOfInputsAreNotCaptured) {
  const auto graph = Compile(R"(
reduce_overhead
input %0: float32[4, 6] @0
%1: float32[4, 6] @1 = aten::mul.Scalar(%0, 2)
%2: float32[6, 4] strides=[1, 6] @0 = aten::t(%0)
return %1, %2
)");
  for (int call = 0; call < 5; ++call) {
    const at::Tensor x = Values(call);
    const std::vector<at::Tensor> got = Run(*graph, {x});
    EXPECT_TRUE(at::equal(got[0], x * 2) && at::equal(got[1], x.t()) && got[1].is_alias_of(x));
  }
  EXPECT_EQ(device_.launches, 0);
}

TEST_F(GraphLaunches, InputsAreWritten) {
  const auto graph = Compile(R"(
reduce_overhead
input %0: float32[4, 6] @0
%1: float32[4, 6] @1 = aten::mul.Scalar(%0, 2)
mutate %0 <- %1
return %1
)");
  for (const bool moves : {false, true}) {
    at::Tensor x = Values(1);
    for (int call = 0; call < 6; ++call) {
      if (moves) x = Values(call);
      const at::Tensor expected = x * 2, got = Run(*graph, {x}).at(0);
      EXPECT_TRUE(at::equal(x, expected) && at::equal(got, expected));
      EXPECT_FALSE(got.is_alias_of(x));
      if (!moves) x.div_(2);
    }
  }
  EXPECT_EQ(device_.captures, 2);
}

TEST_F(GraphLaunches, InputsAreWrittenFromViewsOfOthers) {
  const auto graph = Compile(R"(
reduce_overhead
input %0: float32[4, 6] @0
input %1: float32[6, 4] @1
%2: float32[4, 6] strides=[1, 4] @1 = aten::t(%1)
%3: float32[4, 6] @3 = aten::mul.Scalar(%0, 2)
mutate %0 <- %2
return %3
)");
  for (int call = 0; call < 6; ++call) {
    const at::Tensor x = Values(call), y = Values(100 * call, {6, 4});
    EXPECT_TRUE(at::equal(Run(*graph, {x, y}).at(0), Values(call) * 2));
    EXPECT_TRUE(at::equal(x, y.t()));
  }
  EXPECT_EQ(device_.launches, 6 - kFirstCalls);
}

TEST_F(GraphLaunches, EachStreamHasItsOwn) {
  const auto graph = Compile(kTwice);
  const at::Tensor x = Values(0);
  for (int call = 0; call < 5; ++call) {
    for (device_.stream = -1; device_.stream < 6; ++device_.stream) {
      x.add_(1);
      EXPECT_TRUE(at::equal(Run(*graph, {x}).at(0), x * 2));
    }
  }
  EXPECT_EQ(device_.captures, 4) << "further streams launch one by one";
  EXPECT_EQ(device_.launches, 4 * (5 - kFirstCalls));
}

TEST_F(GraphLaunches, WhileAnotherGraphIsLaunchedCallsArePlain) {
  const auto graph = Compile(kTwice);
  const at::Tensor x = Values(3);
  for (int call = 0; call < 8; ++call) {
    device_.busy = call >= 5;
    EXPECT_TRUE(at::equal(Run(*graph, {x}).at(0), x * 2));
    EXPECT_EQ(device_.busy, call >= 5);
  }
  EXPECT_EQ(device_.launches, 5 - kFirstCalls);
}

TEST_F(GraphLaunches, WhatCannotBeCapturedRunsAllTheSame) {
  device_.why_not = "an operator waits for the device";
  const auto graph = Compile(kTwice);
  for (int call = 0; call < 5; ++call) EXPECT_TRUE(at::equal(Run(*graph, {Values(call)}).at(0), Values(call) * 2));
  EXPECT_EQ(device_.captures, 0);
}

// Attention's seed is on the CPU, but in a capture, whatever its metadata says.
TEST_F(GraphLaunches, ResultsThatLieElsewhereAreNotCaptured) {
  const auto graph = Compile(R"(
reduce_overhead
input %0: float32[4, 6] @0
%1: float32[4, 6] @1 = aten::mul.Scalar(%0, 2)
%2: float32[4, 6] @2 = aten::new_empty(%0, [4, 6], device="meta")
return %1, %2
)");
  for (int call = 0; call < 5; ++call) {
    const std::vector<at::Tensor> results = Run(*graph, {Values(call)});
    EXPECT_TRUE(at::equal(results.at(0), Values(call) * 2));
    EXPECT_TRUE(results.at(1).is_meta());
  }
  EXPECT_EQ(device_.captures, 0);
}

TEST_F(GraphLaunches, InputsMayBeReleased) {
  const auto graph = Compile(kTwice);
  for (int call = 0; call < 5; ++call) {
    std::vector<at::Tensor> outputs;
    graph->RunReleasing({Values(call)}, outputs);
    EXPECT_TRUE(at::equal(outputs.at(0), Values(call) * 2));
  }
  EXPECT_EQ(device_.launches, 5 - kFirstCalls);
}

// Four kernels, which sums keep apart.
constexpr char kSeveral[] = R"(
input %0: float32[4, 6] @0
%1: float32[4] @1 = aten::sum.dim_IntList(%0, [1], False, None)
%2: float32[] @2 = aten::sum(%1, None)
%3: float32[6] @3 = aten::sum.dim_IntList(%0, [0], False, None)
%4: float32[] @4 = aten::sum(%3, None)
return %2, %4
)";

TEST_F(GraphLaunches, NobodyAskedAndTheDeviceWaits) {
  const auto graph = Compile(kSeveral);
  const at::Tensor x = Values(0);
  for (int call = 0; call < 20; ++call) EXPECT_EQ(Run(*graph, {x}).at(0).item<float>(), x.sum().item<float>());
  EXPECT_EQ(device_.captures, 1);
}

TEST_F(GraphLaunches, NobodyAskedAndTheDeviceIsBusy) {
  device_.nanoseconds = 1e12;
  const auto graph = Compile(kSeveral);
  for (int call = 0; call < 20; ++call) Run(*graph, {Values(0)});
  EXPECT_EQ(device_.captures, 0);
}

}  // namespace
}  // namespace framejit::cuda
