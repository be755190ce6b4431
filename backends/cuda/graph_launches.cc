// A captured graph works in memory that is captured graphs' alone, those of the same stream. Inputs are read where they
// lie as long as they lie there, and copied to the graph's memory where not. Results are copied out of it into memory
// like any other, in the order of the stream and before the next launch on it, so that no later call overwrites what
// the caller has. What is not in the graph: writes to inputs, and results that
// are inputs or views of them. Calls on different streams have different captures, since those may run at once.
#include "backends/cuda/graph_launches.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "backends/cuda/launch_policy.h"
#include "backends/dispatch.h"
#include "backends/native/library_calls.h"
#include "backends/native/target.h"
#include "base/log.h"
#include "graph/passes/analysis.h"

namespace framejit::cuda {
namespace {

using native::AliasStep;
using native::LibraryStep;
using native::Plan;
using native::TensorRef;
using native::TensorShape;

// Captures of one graph, one for each stream; calls on further streams are plain.
constexpr size_t kMostStreams = 4;
// What fewer steps launch is over before a CUDA graph would have begun; the program may ask for one all the same.
constexpr size_t kFewSteps = 4;
// What a graph that nobody asked for may keep.
constexpr int64_t kMostKeptBytes = int64_t{256} << 20;

// Bytes from the first element to the last, gaps included. Of a TensorShape or a TensorMeta.
template <typename Shape>
int64_t ExtentBytes(const Shape& shape) {
  int64_t last = 0;
  for (size_t i = 0; i < shape.sizes.size(); ++i) {
    if (shape.sizes[i] == 0) return 0;
    last += (shape.sizes[i] - 1) * shape.strides[i];
  }
  return (last + 1) * static_cast<int64_t>(c10::elementSize(shape.dtype));
}

TensorShape ShapeOf(const at::Tensor& tensor) {
  return {tensor.scalar_type(), c10::DimVector(tensor.sizes()), c10::DimVector(tensor.strides()),
          tensor.is_contiguous()};
}

// Through what a step made of metadata alone: the tensor whose memory it is, and where in it, in elements.
struct Root {
  TensorRef ref;
  int64_t offset = 0;
  const AliasStep* alias = nullptr;  // the last one; null: `ref` is the tensor itself
};

Root RootOf(const Plan& plan, TensorRef ref) {
  Root root{ref};
  for (bool found = true; found && root.ref.kind == TensorRef::Kind::kLocal;) {
    found = false;
    for (const native::Step& step : plan.steps) {
      const auto* alias = std::get_if<AliasStep>(&step.action);
      if (alias == nullptr || alias->local != root.ref.index) continue;
      if (root.alias == nullptr) root.alias = alias;
      root.ref = alias->from;
      root.offset += alias->offset;
      found = true;
      break;
    }
  }
  return root;
}

// By input: a library call writes it, where it lies: running statistics.
bool DrawsRandomNumbers(const Plan& plan) {
  return std::any_of(plan.steps.begin(), plan.steps.end(), [](const native::Step& step) {
    const auto* call = std::get_if<LibraryStep>(&step.action);
    return call != nullptr && IsRandom(call->node->op);
  });
}

std::vector<bool> WrittenInPlace(const Plan& plan) {
  std::vector<bool> written(plan.graph.inputs.size(), false);
  for (const native::Step& step : plan.steps) {
    const auto* call = std::get_if<LibraryStep>(&step.action);
    if (call == nullptr) continue;
    const Node& node = *call->node;
    if (!MutatesArguments(node.op) && (!HasEffect(node) || IsRandom(node.op))) continue;
    for (const auto& operand : call->operands) {
      for (const TensorRef ref : operand) {
        const TensorRef root = RootOf(plan, ref).ref;
        if (root.kind == TensorRef::Kind::kInput) written[static_cast<size_t>(root.index)] = true;
      }
    }
  }
  return written;
}

// How a call gets one of the graph's results.
struct Result {
  enum class Kind : uint8_t {
    kKept,     // `kept`, in each call: a constant, or no tensor
    kInput,    // the input `index`
    kOfInput,  // its memory, from `offset` on
    kMade,     // in a copy of the memory `index`, from `offset` on
  };
  Kind kind = Kind::kKept;
  at::Tensor kept;
  size_t index = 0;
  TensorShape shape;
  int64_t offset = 0;  // elements
};

// Memory in the graph's pool that results lie in; nothing holds it.
struct Made {
  void* data = nullptr;
  int64_t bytes = 0;  // up to the end of the last result
};

// A graph, captured for one stream and the addresses of some inputs.
struct Captured {
  std::unique_ptr<LaunchDevice::Graph> graph;
  std::vector<std::pair<size_t, at::Tensor>> copies;  // (input, where the graph reads it)
  std::vector<Made> made;
  std::vector<Result> outputs;
  std::vector<Made> written_made;  // that of `written`, which is read where it lies
  std::vector<Result> written;     // by Plan::mutations
};

// A timed call, of which the device has not said yet how long it took.
struct Timing {
  std::unique_ptr<LaunchDevice::Watch> device;
  bool launched = false;
  double host = 0;
};

// Sets a flag for its life, unless that is set already.
class Turn {
 public:
  explicit Turn(std::atomic<bool>& flag) : flag_(flag), taken_(!flag.exchange(true, std::memory_order_acquire)) {}
  ~Turn() {
    if (taken_) flag_.store(false, std::memory_order_release);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  bool taken() const { return taken_; }

 private:
  std::atomic<bool>& flag_;
  const bool taken_;
};

// The calls on one stream.
struct Lane {
  c10::StreamId stream;
  LaunchPolicy policy;
  std::unique_ptr<const Captured> captured;
  std::optional<Timing> timing;
};

class GraphLaunches : public CompiledGraph {
 public:
  GraphLaunches(std::unique_ptr<native::NativeGraph> plain, const LaunchDevice& device)
      : plain_(std::move(plain)),
        plan_(plain_->plan()),
        device_(device),
        always_(plan_.graph.modes.reduce_overhead),
        draws_(DrawsRandomNumbers(plan_)),
        written_in_place_(WrittenInPlace(plan_)) {
    std::string why_not = WhyNotCapturable(plan_);
    if (why_not.empty() && !always_) why_not = WhyNotWorthwhile();
    if (!why_not.empty()) GiveUp(why_not);
  }

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override {
    RunWith(inputs, outputs, [&] { plain_->Run(inputs, outputs); });
  }
  void RunReleasing(std::vector<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override {
    RunWith(inputs, outputs, [&] { plain_->RunReleasing(std::move(inputs), outputs); });
  }
  std::vector<StepTime> TimeSteps(c10::ArrayRef<at::Tensor> inputs, double patience) override {
    return plain_->TimeSteps(inputs, patience);
  }
  std::string Describe() const override { return plain_->Describe(); }

 private:
  template <typename RunPlain>
  void RunWith(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs, RunPlain run_plain);
  Lane* LaneOf(const c10::Stream& stream);
  static void TakeTiming(Lane& lane);
  // What to do in this call, on this stream; where the answer is a capture, it is made.
  LaunchPolicy::Action Decide(Lane& lane, const c10::Stream& stream, c10::ArrayRef<at::Tensor> inputs);
  absl::StatusOr<std::unique_ptr<const Captured>> Capture(const c10::Stream& stream, const LaunchPolicy& policy,
                                                          c10::ArrayRef<at::Tensor> inputs) const;
  absl::StatusOr<Result> ResultOf(TensorRef ref, const at::Tensor& tensor, c10::ArrayRef<at::Tensor> given,
                                  std::vector<Made>& made) const;
  void Launch(const Captured& captured, c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) const;
  at::Tensor Get(const Result& result, c10::ArrayRef<at::Tensor> inputs, const std::vector<at::Tensor>& memory) const;
  std::string WhyNotWorthwhile() const;
  // By value: what says so may go with the lanes.
  void GiveUp(std::string why) {
    is_plain_ = true;
    lanes_.clear();
    Log(LogArtifact::k_cudagraphs, absl::StrCat("launched one by one, ", plan_.steps.size(), " steps: ", why));
  }

  const std::unique_ptr<native::NativeGraph> plain_;
  const Plan& plan_;
  const LaunchDevice& device_;
  const bool always_;
  const bool draws_;
  const std::vector<bool> written_in_place_;  // by input
  std::atomic<bool> is_plain_{false};         // from now on
  // Who finds it set runs the graph plainly: who set it may be waiting for the GIL, or be further up on this thread.
  std::atomic<bool> busy_{false};
  std::vector<std::unique_ptr<Lane>> lanes_;  // of whoever set `busy_`
};

std::string GraphLaunches::WhyNotWorthwhile() const {
  size_t launches = 0;
  for (const native::Step& step : plan_.steps) {
    launches +=
        std::holds_alternative<native::KernelStep>(step.action) || std::holds_alternative<LibraryStep>(step.action);
  }
  if (launches < kFewSteps) return "there are few";
  int64_t bytes = plan_.arena_bytes;
  for (ValueId id : plan_.graph.outputs) {
    if (id != kNoValue) bytes += ExtentBytes(plan_.graph.meta(id));
  }
  return bytes > kMostKeptBytes ? "it would keep much memory" : "";
}

Lane* GraphLaunches::LaneOf(const c10::Stream& stream) {
  for (const auto& lane : lanes_) {
    if (lane->stream == stream.id()) return lane.get();
  }
  if (lanes_.size() == kMostStreams) return nullptr;
  std::vector<int64_t> bytes;
  for (ValueId id : plan_.graph.inputs) bytes.push_back(ExtentBytes(plan_.graph.meta(id)));
  lanes_.push_back(std::make_unique<Lane>(stream.id(), LaunchPolicy(always_, std::move(bytes))));
  return lanes_.back().get();
}

void GraphLaunches::TakeTiming(Lane& lane) {
  const std::optional<double> device = lane.timing.has_value() ? lane.timing->device->Nanoseconds() : std::nullopt;
  if (!device.has_value()) return;
  lane.policy.AddTime(lane.timing->launched, {lane.timing->host, *device});
  lane.timing.reset();
}

LaunchPolicy::Action GraphLaunches::Decide(Lane& lane, const c10::Stream& stream, c10::ArrayRef<at::Tensor> inputs) {
  using Action = LaunchPolicy::Action;
  TakeTiming(lane);
  absl::InlinedVector<const void*, 16> addresses;
  for (const at::Tensor& input : inputs) addresses.push_back(input.const_data_ptr());
  const Action action = lane.policy.Next(addresses);
  if (action != Action::kCapture) return action;
  lane.captured = nullptr;  // its memory first
  absl::StatusOr<std::unique_ptr<const Captured>> captured = Capture(stream, lane.policy, inputs);
  if (!captured.ok()) {
    lane.policy.GiveUp(std::string(captured.status().message()));
    return Action::kPlain;
  }
  lane.captured = *std::move(captured);
  lane.policy.Captured();
  Log(LogArtifact::k_cudagraphs, absl::StrCat("captured: ", plan_.steps.size(), " steps, ",
                                              lane.captured->copies.size(), " of ", inputs.size(), " inputs copied"));
  return Action::kLaunch;
}

template <typename RunPlain>
void GraphLaunches::RunWith(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs, RunPlain run_plain) {
  using Action = LaunchPolicy::Action;
  if (is_plain_.load(std::memory_order_relaxed)) return run_plain();
  const Turn turn(busy_);
  if (!turn.taken()) return run_plain();
  const c10::Device device = plan_.target->device();
  const c10::DeviceGuard guard(device);
  const bool are_plain = std::all_of(inputs.begin(), inputs.end(), [&](const at::Tensor& input) {
    return input.defined() && input.layout() == at::kStrided && input.has_storage() && !input.is_conj() &&
           !input.is_neg() && input.device() == device;  // attention's seed is on the CPU, but in a capture
  });
  const std::optional<c10::Stream> stream = are_plain ? device_.UsableStream(device) : std::nullopt;
  std::optional<Turn> on_stream;
  if (stream.has_value()) on_stream.emplace(device_.BusyFlag(*stream));
  Lane* lane = on_stream.has_value() && on_stream->taken() ? LaneOf(*stream) : nullptr;
  if (lane == nullptr) return run_plain();
  const Action action = Decide(*lane, *stream, inputs);
  if (!lane->policy.why_plain().empty()) {
    GiveUp(lane->policy.why_plain());
    return run_plain();
  }
  const bool launches = action == Action::kLaunch || action == Action::kTimeLaunch;
  const bool timed = (action == Action::kTimePlain || action == Action::kTimeLaunch) && !lane->timing.has_value();
  const auto start = LeastTime::Clock::now();
  std::optional<Timing> timing;
  if (timed) {
    timing.emplace().device = device_.NewWatch();
    timing->device->Start(*stream);
  }
  if (launches) {
    Launch(*lane->captured, inputs, outputs);
  } else {
    run_plain();
    // Attention's seed: in a capture it would be on the device, where a backward that is not captured cannot read it.
    const bool on_device = std::all_of(outputs.begin(), outputs.end(),
                                       [&](const at::Tensor& out) { return !out.defined() || out.device() == device; });
    if (!on_device) return GiveUp("a result is not on the device");
  }
  if (!timed) return;
  timing->device->Stop(*stream);
  timing->launched = launches;
  timing->host = LeastTime::NanosecondsSince(start);
  lane->timing = std::move(timing);
}

absl::StatusOr<std::unique_ptr<const Captured>> GraphLaunches::Capture(const c10::Stream& stream,
                                                                       const LaunchPolicy& policy,
                                                                       c10::ArrayRef<at::Tensor> inputs) const {
  auto captured = std::make_unique<Captured>();
  std::vector<at::Tensor> given(inputs.begin(), inputs.end());
  try {
    const c10::InferenceMode normal_tensors(false);  // they outlive this call's mode
    for (size_t i = 0; i < given.size(); ++i) {
      if (!policy.IsCopied(i)) continue;
      if (written_in_place_[i])
        return absl::UnimplementedError("an input that it writes lies elsewhere in other calls");
      TensorShape memory{given[i].scalar_type(), {}, {}, true};
      memory.sizes = {ExtentBytes(ShapeOf(given[i])) / static_cast<int64_t>(given[i].element_size())};
      memory.strides = {1};
      given[i] = native::TensorOver(plan_.target->Allocate(memory, /*zeroed=*/false).storage(), ShapeOf(given[i]), 0);
      captured->copies.emplace_back(i, given[i]);
    }
  } catch (const c10::Error& error) {
    return absl::ResourceExhaustedError(error.what_without_backtrace());
  }
  std::vector<at::Tensor> outputs, written;
  absl::StatusOr<std::unique_ptr<LaunchDevice::Graph>> graph =
      device_.Capture(stream, draws_, [&] { plain_->RunWithoutWrites(given, outputs, written); });
  if (!graph.ok()) return graph.status();
  captured->graph = *std::move(graph);
  for (size_t i = 0; i < outputs.size(); ++i) {
    absl::StatusOr<Result> result = ResultOf(plan_.outputs[i], outputs[i], given, captured->made);
    if (!result.ok()) return result.status();
    captured->outputs.push_back(*std::move(result));
  }
  for (size_t i = 0; i < written.size(); ++i) {
    absl::StatusOr<Result> result = ResultOf(plan_.mutations[i].value, written[i], given, captured->written_made);
    if (!result.ok()) return result.status();
    captured->written.push_back(*std::move(result));
  }
  return captured;
}

absl::StatusOr<Result> GraphLaunches::ResultOf(TensorRef ref, const at::Tensor& tensor, c10::ArrayRef<at::Tensor> given,
                                               std::vector<Made>& made) const {
  Result result;
  const Root root = RootOf(plan_, ref);
  if (!tensor.defined() || (root.ref.kind == TensorRef::Kind::kConstant && root.alias == nullptr)) {
    result.kept = tensor;
    return result;
  }
  if (root.ref.kind == TensorRef::Kind::kInput) {
    result.kind = root.alias == nullptr ? Result::Kind::kInput : Result::Kind::kOfInput;
    result.index = static_cast<size_t>(root.ref.index);
    if (root.alias != nullptr) result.shape = root.alias->shape;
    result.offset = root.offset;
    return result;
  }
  if (tensor.layout() != at::kStrided || !tensor.has_storage() || tensor.is_conj() || tensor.is_neg()) {
    return absl::UnimplementedError("a result is no plain tensor");
  }
  const auto shares = [&](const at::Tensor& other) { return other.has_storage() && tensor.is_alias_of(other); };
  for (const at::Tensor& input : given) {
    if (shares(input)) return absl::UnimplementedError("a library call returns an input's memory");
  }
  for (const at::Tensor& constant : plan_.constants) {
    if (shares(constant)) return absl::UnimplementedError("a result lies in a constant");
  }
  result.kind = Result::Kind::kMade;
  result.shape = ShapeOf(tensor);
  result.offset = tensor.storage_offset();
  const auto known = std::find_if(made.begin(), made.end(),
                                  [&](const Made& memory) { return memory.data == tensor.storage().data(); });
  result.index = static_cast<size_t>(known - made.begin());
  if (known == made.end()) made.push_back({tensor.storage().mutable_data(), 0});
  int64_t& bytes = made[result.index].bytes;
  bytes = std::max(bytes, result.offset * static_cast<int64_t>(tensor.element_size()) + ExtentBytes(result.shape));
  return result;
}

at::Tensor GraphLaunches::Get(const Result& result, c10::ArrayRef<at::Tensor> inputs,
                              const std::vector<at::Tensor>& memory) const {
  switch (result.kind) {
    case Result::Kind::kKept:
      return result.kept;
    case Result::Kind::kInput:
      return inputs[result.index];
    case Result::Kind::kOfInput: {
      const at::Tensor& input = inputs[result.index];
      return native::TensorOver(input.storage(), result.shape, input.storage_offset() + result.offset);
    }
    case Result::Kind::kMade:
      return native::TensorOver(memory[result.index].storage(), result.shape, result.offset);
  }
  return {};
}

void GraphLaunches::Launch(const Captured& captured, c10::ArrayRef<at::Tensor> inputs,
                           std::vector<at::Tensor>& outputs) const {
  const c10::Device device = plan_.target->device();
  for (const auto& [input, memory] : captured.copies) {
    const auto bytes = static_cast<size_t>(memory.storage().nbytes());
    if (bytes > 0) device_.Copy(device, memory.mutable_data_ptr(), inputs[input].const_data_ptr(), bytes);
  }
  captured.graph->Launch();
  std::vector<at::Tensor> memory;
  for (const Made& made : captured.made) {
    memory.push_back(plan_.target->Allocate({at::kByte, {made.bytes}, {1}, true}, /*zeroed=*/false));
    const auto bytes = static_cast<size_t>(made.bytes);
    if (bytes > 0) device_.Copy(device, memory.back().mutable_data_ptr(), made.data, bytes);
  }
  outputs.clear();
  outputs.reserve(captured.outputs.size());
  for (const Result& result : captured.outputs) outputs.push_back(Get(result, inputs, memory));
  if (captured.written.empty()) return;
  memory.clear();
  for (const Made& made : captured.written_made) {
    c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<size_t>(made.bytes),
                         c10::DataPtr(made.data, device), /*allocator=*/nullptr, /*resizable=*/false);
    memory.push_back(native::TensorOver(std::move(storage), {at::kByte, {made.bytes}, {1}, true}, 0));
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> writes;
  for (size_t i = 0; i < captured.written.size(); ++i) {
    writes.emplace_back(inputs[static_cast<size_t>(plan_.mutations[i].input.index)],
                        Get(captured.written[i], inputs, memory));
  }
  const RecordedLevelGuard level;
  ApplyWrites(std::move(writes));
}

}  // namespace

std::string WhyNotCapturable(const Plan& plan) {
  const c10::Device device = plan.target->device();
  const auto elsewhere = [&](ValueId id) { return id != kNoValue && plan.graph.meta(id).device != device; };
  for (ValueId id : plan.graph.inputs) {
    if (elsewhere(id)) return absl::StrCat("an input is on ", plan.graph.meta(id).device.str());
  }
  for (const native::PlannedMutation& mutation : plan.mutations) {
    if (mutation.input.kind != TensorRef::Kind::kInput) return "it writes a view of an input";
  }
  for (const native::Step& step : plan.steps) {
    if (const auto* clone = std::get_if<native::CloneStep>(&step.action)) {
      if (plan.constants[static_cast<size_t>(clone->constant)].device() != device) return "a result is on the CPU";
    }
    const auto* call = std::get_if<LibraryStep>(&step.action);
    if (call == nullptr) continue;
    const Node& node = *call->node;
    const std::string name = OperatorName(node.op);
    if (!name.starts_with("aten::") && !name.starts_with("prims::")) return absl::StrCat(name, " is not torch's own");
    if (node.op.hasTag(at::Tag::data_dependent_output) || node.op.hasTag(at::Tag::dynamic_output_shape)) {
      return absl::StrCat(name, " waits for the device");
    }
    bool apart = std::any_of(node.outputs.begin(), node.outputs.end(), elsewhere);
    ForEachOperandValue(node, [&](ValueId id) { apart |= elsewhere(id); });
    if (apart) return absl::StrCat(name, " reads or makes what is not on ", device.str());
    for (const Operand& operand : node.operands) {
      if (operand.kind == Operand::Kind::kConstant && operand.constant.isGenerator()) {
        return absl::StrCat(name, " draws from a generator of the program's own");
      }
    }
  }
  return "";
}

std::unique_ptr<CompiledGraph> WithGraphLaunches(std::unique_ptr<native::NativeGraph> graph,
                                                 const LaunchDevice& device) {
  return std::make_unique<GraphLaunches>(std::move(graph), device);
}

}  // namespace framejit::cuda
