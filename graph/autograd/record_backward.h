// Recording a backward: torch's autograd engine runs on the fakes of a recording, so that what its formulas call lands
// behind the forward in the same graph. Knows nothing of Python frames.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_RECORD_BACKWARD_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_RECORD_BACKWARD_H_

#include <ATen/core/Tensor.h>
#include <Python.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "graph/autograd/joint_graph.h"
#include "graph/fake/fake_session.h"

namespace torch::autograd {
struct Node;
}

namespace framejit {

// While alive, the engine runs all of a backward in the thread that asks for it, as it does for the CPU: a recording is
// one of its thread. The nodes of other devices would go to threads of theirs.
class EngineInThisThread {
 public:
  EngineInThisThread();
  ~EngineInThisThread();
  EngineInThisThread(const EngineInThisThread&) = delete;
  EngineInThisThread& operator=(const EngineInThisThread&) = delete;

 private:
  const bool before_;
};

// A node of a custom Function written in Python: these are named so, and those of torch end in a number.
bool IsCustomFunction(const torch::autograd::Node& node);
// Whether the node runs code of the program, which need not be linear: a custom Function's or a hook's.
bool RunsProgram(torch::autograd::Node& node);

// While alive, gradients that arrive at these tensors go no further; the engine has captured them by then. They have
// histories.
class StoppedGradients {
 public:
  explicit StoppedGradients(at::ArrayRef<at::Tensor> tensors);
  ~StoppedGradients();
  StoppedGradients(const StoppedGradients&) = delete;
  StoppedGradients& operator=(const StoppedGradients&) = delete;

 private:
  std::vector<at::Tensor> tensors_;
};

// Node::torch_call of what checkpoint number i computes is kFirstCheckpoint - i, in a joint graph: its backward
// computes that again.
inline constexpr int32_t kFirstCheckpoint = -3;

// Code of the program that a backward may run: custom Functions and hooks on tensors.
struct ProgramBackward {
  std::function<bool(PyObject* context)> reads_saved;  // whether the backward asked for the tensors saved in it
  std::function<std::string()> failure;                // why what ran is not to be recorded; empty where it is
};

// `session` has recorded a forward whose Graph::outputs are set; `inputs` are the fakes of its inputs that require
// grad, `outputs` those of all its outputs. The session's graph is as before afterwards, whatever happens.
// Unimplemented says why torch's own autograd has to differentiate the call. Requires the GIL, which it gives up while
// the engine runs. `program` null: no code of the program is run, its Functions and hooks are refused.
absl::StatusOr<std::unique_ptr<JointGraph>> RecordBackward(FakeSession& session, const std::vector<LiftedInput>& inputs,
                                                           const std::vector<at::Tensor>& outputs,
                                                           const ProgramBackward* program);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_RECORD_BACKWARD_H_
