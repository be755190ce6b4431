// What the program gave autograd to run: custom Functions, hooks, checkpoints. Private to graph/capture.
#ifndef FRAMEJIT_GRAPH_CAPTURE_PROGRAM_GRADIENTS_H_
#define FRAMEJIT_GRAPH_CAPTURE_PROGRAM_GRADIENTS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/autograd/joint_graph.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/recorder.h"
#include "graph/fake/fake_session.h"

namespace framejit {

struct ProgramGradients {
  // A hook on a tensor that the recording made, by the dict that has it.
  struct Hook {
    at::Tensor tensor;
    PyRef dict;
    PyRef key;
    PyRef function;
  };

  // A call of torch.utils.checkpoint. The pairs are half-open ranges.
  struct Checkpoint {
    std::pair<int32_t, int32_t> calls;       // of the torch-level graph
    std::pair<uint64_t, uint64_t> sequence;  // of autograd's nodes
    // What the function was given, and its versions then: in eager mode a backward raises where it was written since.
    std::vector<std::pair<at::Tensor, int64_t>> arguments;
  };

  // Whether a backward may run code of the program.
  bool any() const { return !contexts.empty() || !hooks.empty(); }
  // Whether all hooks are where they were put: the torch-level graph does not know that one was removed.
  bool HooksAreLeft() const;

  std::vector<PyRef> contexts;              // of the custom Functions that were applied
  std::vector<at::Tensor> unsaved;          // what contexts hold besides the tensors that they saved
  bool holds_containers = false;            // or other objects that a backward could change
  bool reads_outside = false;               // what may be another value when torch runs the program's code once more
  absl::flat_hash_set<PyObject*> unpacked;  // contexts whose saved tensors a backward asked for
  std::vector<Hook> hooks;
  std::vector<at::Tensor> retained;         // results of operators whose gradients a backward keeps
  std::vector<PyRef> with_gradients;        // tensors made inside that have a `.grad`
  bool runs_backward = false;               // Tensor.backward was recorded
  std::vector<StopPoint> backward_stops;    // where the recording can end in front of the first one
  std::vector<Checkpoint> checkpoints;      // outer ones behind inner ones
  std::vector<StopPoint> checkpoint_stops;  // as backward_stops
};

// Code of the program that autograd calls.
enum class ProgramCode : uint8_t {
  kNone,
  kForward,   // of a custom Function
  kGradient,  // what torch.autograd.grad runs
  kBackward,  // of the whole call: it runs later, must read the same then and write nothing
};
ProgramCode RunningCode();
bool EngineRuns();  // what is called has no torch-level form

// While alive, such code runs. Under the engine, frames of torch run natively and those of the program that they call
// are recorded.
class RunsCode {
 public:
  explicit RunsCode(ProgramCode code);
  ~RunsCode();
  RunsCode(const RunsCode&) = delete;
  RunsCode& operator=(const RunsCode&) = delete;

 private:
  ProgramCode before_;
  bool armed_ = false, entered_ = false;
};

// A local function whose closure holds constants alone: in eager mode it is read when the function is called.
bool ClosureIsConstant(PyObject* function);

// The backward of the whole call, by RecordBackward. `writes` says whether the recording has effects.
absl::StatusOr<std::unique_ptr<JointGraph>> RecordGradients(Recording& recording, ProgramGradients& program,
                                                            FakeSession& session,
                                                            const std::vector<LiftedInput>& inputs,
                                                            const std::vector<at::Tensor>& outputs,
                                                            const std::function<bool()>& writes);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_PROGRAM_GRADIENTS_H_
