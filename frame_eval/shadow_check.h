// The shadow check (FRAMEJIT_CHECK=shadow[:rate]): of sampled calls, the function itself runs first, in eager mode and
// with all that it writes taken back; then the recording runs, and the two are compared: results, what they share
// memory with, inputs that were written, the generator. A difference is an error that says where.
//
// The program sees one call. That holds for recordings whose only effects are writes to tensors and random numbers:
// others are left out, and counted.
#ifndef FRAMEJIT_FRAME_EVAL_SHADOW_CHECK_H_
#define FRAMEJIT_FRAME_EVAL_SHADOW_CHECK_H_

#include <ATen/core/Tensor.h>
#include <Python.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/guards/guard_program.h"
#include "graph/capture/recorder.h"
#include "graph/generator_state.h"

namespace framejit {

// Process-wide, for what is compiled from now on: each how many-th call of an entry is checked; 0: none.
void SetShadowCheck(int64_t every);
int64_t ShadowCheckEvery();
// What compares results: keep(result, tensors) -> kept, of the tensors that are written; difference(expected, actual,
// kept, expected_inputs, actual_inputs, inputs, names, rounded) -> None or text.
void SetShadowFunctions(PyObject* keep, PyObject* difference);

struct ShadowCounts {
  int64_t checked = 0;
  int64_t left_out = 0;
};
// Guarded by the GIL.
ShadowCounts& CountsOfShadows();

// What a trace knows for being checked.
struct ShadowPlan {
  std::vector<std::string> input_names;
  std::vector<size_t> written;  // positions of inputs
  std::string left_out;         // why its calls are not checked; empty where they are
  // By dtype of results: the coarsest one that any of them is computed in.
  std::vector<std::pair<c10::ScalarType, c10::ScalarType>> rounded;
  std::vector<c10::Device> random;  // whose default generators are looked at
};
ShadowPlan MakeShadowPlan(const Recording& recording, bool is_segment, const std::vector<std::string>& argument_names);

// One call that is checked.
class ShadowCall {
 public:
  // `inputs`: the recording's, by ShadowPlan::input_names.
  ShadowCall(const ShadowPlan& plan, std::vector<PyRef> inputs);
  // Runs the function in eager mode, remembers what it did, and takes it back. Must be called first. An error is one of
  // the check.
  absl::Status RunEager(const CallState& state);
  // Compares with what the recording did.
  absl::Status Compare(PyObject* result);
  // Takes back what was written since the call began.
  void TakeBack();

 private:
  // Positions of the inputs that were written since the call began, as their versions say.
  std::vector<bool> Written() const;
  absl::Status CompareInputs();

  const ShadowPlan& plan_;
  std::vector<PyRef> inputs_;
  std::vector<int64_t> versions_;                          // by input; -1 where it has none
  std::vector<std::pair<at::Tensor, at::Tensor>> before_;  // the written inputs, and what they held
  std::vector<at::Tensor> after_;                          // and what they held behind the eager call
  std::vector<bool> eager_written_;
  std::optional<DefaultGeneratorStates> generators_before_, generators_after_;
  PyRef expected_;  // null: it raised
  std::string raised_;
  PyRef kept_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_SHADOW_CHECK_H_
