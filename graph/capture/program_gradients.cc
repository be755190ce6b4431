#include "graph/capture/program_gradients.h"

#include <ATen/Context.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "graph/autograd/record_backward.h"
#include "graph/capture/recorder_impl.h"
#include "graph/fake/random_state_operators.h"

namespace framejit {
namespace {

thread_local ProgramCode running_code = ProgramCode::kNone;

}  // namespace

ProgramGradients& RecorderState::Impl::Gradients() {
  if (program_gradients == nullptr) program_gradients = std::make_shared<ProgramGradients>();
  return *program_gradients;
}

bool ProgramGradients::HooksAreLeft() const {
  for (const Hook& hook : hooks) {
    if (PyDict_GetItemWithError(hook.dict.get(), hook.key.get()) != hook.function.get()) return false;
    if (!ClosureIsConstant(hook.function.get())) return false;
  }
  return true;
}

ProgramCode RunningCode() { return running_code; }

bool EngineRuns() { return running_code == ProgramCode::kGradient || running_code == ProgramCode::kBackward; }

RunsCode::RunsCode(ProgramCode code) : before_(std::exchange(running_code, code)) {
  if (!EngineRuns()) return;
  armed_ = RecordingHook::Arm(true);
  entered_ = RecordingHook::EnterTransform(true);
}

RunsCode::~RunsCode() {
  if (EngineRuns()) {
    RecordingHook::EnterTransform(entered_);
    RecordingHook::Arm(armed_);
  }
  running_code = before_;
}

bool RecorderState::Impl::MayChangeBeforeBackward(PyObject* value) {
  if (running_code == ProgramCode::kNone || value == nullptr || IsCodeLike(value)) return false;
  Gradients().reads_outside = true;
  return running_code == ProgramCode::kBackward;
}

bool ClosureIsConstant(PyObject* function) {
  PyObject* closure = PyFunction_GET_CLOSURE(function);
  for (Py_ssize_t i = 0; closure != nullptr && i < PyTuple_GET_SIZE(closure); ++i) {
    PyObject* value = PyCell_GET(PyTuple_GET_ITEM(closure, i));
    if (value == nullptr || !IsConstant(value) || PyFunction_Check(value)) return false;
  }
  return PyFunction_GET_DEFAULTS(function) == nullptr && PyFunction_GET_KW_DEFAULTS(function) == nullptr;
}

namespace {

// Why the backward of such a call is not to be recorded; empty where it is.
std::string Unfit(const ProgramGradients& program, const Graph& graph, const std::vector<at::Tensor>& outputs) {
  if (program.reads_outside) return "a custom Function reads values from outside";
  for (const ProgramGradients::Hook& hook : program.hooks) {
    for (const at::Tensor& output : outputs) {
      if (output.is_same(hook.tensor)) return "a result has a hook";
    }
  }
  if (program.holds_containers) return "a custom Function whose context holds containers";
  absl::flat_hash_set<int32_t> visible;
  for (ValueId id : graph.inputs) visible.insert(graph.meta(id).storage);
  for (ValueId id : graph.outputs) visible.insert(graph.meta(id).storage);
  for (const at::Tensor& tensor : program.unsaved) {
    if (!IsFake(tensor) || visible.contains(FakeSession::MetaOf(tensor).storage))
      return "a custom Function holds a tensor that it did not save for its backward";
  }
  return "";
}

// With the program's code.
absl::StatusOr<std::unique_ptr<JointGraph>> RecordWithProgram(Recording& recording, ProgramGradients& program,
                                                              FakeSession& session,
                                                              const std::vector<LiftedInput>& inputs,
                                                              const std::vector<at::Tensor>& outputs,
                                                              const std::function<bool()>& writes) {
  if (writes()) return absl::UnimplementedError("custom Functions or hooks, and side effects");
  if (std::string why = Unfit(program, session.graph(), outputs); !why.empty()) return absl::UnimplementedError(why);
  TorchGraph& torch = recording.torch_graph;
  const size_t calls = torch.calls.size(), constants = torch.constants.size();
  const ProgramBackward code{.reads_saved = [&](PyObject* context) { return program.unpacked.contains(context); },
                             .failure = [&]() -> std::string {
                               if (recording.graph_break.has_value()) return recording.graph_break->detail;
                               return writes() ? "a backward with side effects" : "";
                             }};
  absl::StatusOr<std::unique_ptr<JointGraph>> joint = absl::InternalError("");
  {
    RunsCode engine(ProgramCode::kBackward);
    joint = RecordBackward(session, inputs, outputs, &code);
  }
  torch.calls.resize(calls);
  torch.constants.resize(constants);
  if (recording.graph_break.has_value()) {  // of the backward alone
    joint = absl::UnimplementedError("the program's backward: " + recording.graph_break->detail);
    recording.graph_break.reset();
    recording.stops.clear();
  }
  PyErr_Clear();
  return joint;
}

// Of the device's default generator.
Node RandomStateCall(Graph& graph, int32_t torch_call, const c10::Device& device) {
  c10::IValue generator;
  int64_t size = RandomStateSize();
  if (!device.is_cpu()) {
    generator = at::globalContext().defaultGenerator(device);
    at::Generator real = generator.toGenerator();
    std::lock_guard<std::mutex> lock(real.mutex());
    size = real.get_state().numel();
  }
  TensorMeta state{.dtype = at::kByte, .sizes = {size}, .strides = {1}};
  for (const TensorMeta& meta : graph.values) state.storage = std::max(state.storage, meta.storage + 1);
  return {.op = c10::Dispatcher::singleton().findSchemaOrThrow("framejit::random_state", ""),
          .operands = {Operand::Constant(std::move(generator))},
          .outputs = {graph.AddValue(std::move(state))},
          .list_lengths = {},
          .torch_call = torch_call};
}

// The state of the generator in front of what a checkpoint draws, which its backward draws again.
absl::Status SaveRandomStates(Graph& graph) {
  std::vector<Node> nodes;
  int32_t drawing = 0;  // Node::torch_call of what drew last
  c10::Device from(c10::kCPU);
  for (Node& node : graph.nodes) {
    if (IsRandom(node.op) && node.torch_call <= kFirstCheckpoint) {
      const c10::Device device = node.outputs.empty() ? from : graph.meta(node.outputs[0]).device;
      if (node.torch_call == drawing && device != from)
        return absl::UnimplementedError("a checkpoint draws random numbers on several devices");
      from = device;
    }
    if (IsRandom(node.op) && node.torch_call != drawing) {
      drawing = node.torch_call;
      if (drawing <= kFirstCheckpoint) nodes.push_back(RandomStateCall(graph, drawing, from));
    }
    nodes.push_back(std::move(node));
  }
  graph.nodes = std::move(nodes);
  return absl::OkStatus();
}

}  // namespace

namespace {

// In eager mode the nodes inside of a checkpoint hold nothing: the checkpoint holds what its function was given.
void HoldArguments(const std::vector<ProgramGradients::Checkpoint>& checkpoints, JointGraph& joint) {
  const Graph& graph = joint.graph;
  for (EngineNode& node : joint.engine.nodes) {
    for (const ProgramGradients::Checkpoint& checkpoint : checkpoints) {  // of nested ones the outermost
      if (node.sequence < checkpoint.sequence.first || node.sequence >= checkpoint.sequence.second) continue;
      node.inputs.clear();
      node.outputs.clear();
      for (const auto& [argument, version] : checkpoint.arguments) {
        const int32_t storage = FakeSession::MetaOf(argument).storage;
        for (size_t i = 0; node.frees && i < joint.input_count; ++i) {
          if (graph.meta(graph.inputs[i]).storage == storage) node.inputs.push_back(static_cast<int32_t>(i));
        }
        for (size_t i = 0; node.frees && i < joint.output_count; ++i) {
          if (graph.meta(graph.outputs[i]).storage == storage) node.outputs.push_back(static_cast<int32_t>(i));
        }
      }
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<JointGraph>> RecordGradients(Recording& recording, ProgramGradients& program,
                                                            FakeSession& session,
                                                            const std::vector<LiftedInput>& inputs,
                                                            const std::vector<at::Tensor>& outputs,
                                                            const std::function<bool()>& writes) {
  absl::StatusOr<std::unique_ptr<JointGraph>> joint =
      program.any() ? RecordWithProgram(recording, program, session, inputs, outputs, writes)
                    : RecordBackward(session, inputs, outputs, nullptr);
  // Outer ones last: what leaves an inner one is inside of the outer one, which keeps nothing.
  for (size_t i = 0; joint.ok() && i < program.checkpoints.size(); ++i) {
    const auto& [first, last] = program.checkpoints[i].calls;
    for (Node& node : (*joint)->graph.nodes) {
      if (node.torch_call >= first && node.torch_call < last)
        node.torch_call = kFirstCheckpoint - static_cast<int32_t>(i);
    }
  }
  if (joint.ok() && !program.checkpoints.empty()) {
    HoldArguments(program.checkpoints, **joint);
    if (absl::Status status = SaveRandomStates((*joint)->graph); !status.ok()) return status;
  }
  return joint;
}

}  // namespace framejit
