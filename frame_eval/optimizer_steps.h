// Methods of torch.optim's optimizers that are called where the thread is armed, done natively: `step` of the usual
// ones as one pass over each parameter and its state, `zero_grad`. What they do differs from torch's Python code in
// nothing that a program sees but time; where anything is unusual (hooks, closures, first steps, sparse or overlapping
// tensors, other devices, profilers), that code runs.
#ifndef FRAMEJIT_FRAME_EVAL_OPTIMIZER_STEPS_H_
#define FRAMEJIT_FRAME_EVAL_OPTIMIZER_STEPS_H_

#include <Python.h>

#include <optional>
#include <string_view>
#include <vector>

#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

enum class OptimizerMethodKind { kZeroGrad, kSgd, kAdam, kRmsprop, kAdagrad };

// By the names that framejit/_optimizers.py uses; nothing for another name.
std::optional<OptimizerMethodKind> OptimizerMethodNamed(std::string_view name);

// A method as torch defines it, and the decorator's function that programs call in its place.
struct OptimizerMethod {
  PyRef wrapper_code;  // of that function
  PyRef function;      // the method, which one of its closure's cells holds
  OptimizerMethodKind kind;
  std::vector<PyRef> types;  // for steps: the optimizers whose step it is, exactly
};

// Replaces what is known; throws nothing. `hooks`: the containers of the hooks of all optimizers.
void SetOptimizerMethods(std::vector<OptimizerMethod> methods, std::vector<PyRef> hooks);
// Whether frames of the code may be such calls.
bool IsOptimizerMethod(PyCodeObject* code);
// Does what the frame would do, which returns None; false, with no exception set, where nothing was changed and the
// frame is to run (the log says why, under `breaks`). The frame has not started.
bool RunOptimizerMethod(FrameView frame);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_OPTIMIZER_STEPS_H_
