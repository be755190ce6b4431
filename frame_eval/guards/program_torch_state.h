// ProgramTorchState: what a program may change of torch's state while it runs, as one value that can be taken and set
// again: what a recording, or a graph that raises in the middle, leaves behind is taken back with it.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_PROGRAM_TORCH_STATE_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_PROGRAM_TORCH_STATE_H_

#include <c10/core/ScalarType.h>

namespace framejit {

// What torch.no_grad, torch.inference_mode and the like set in this thread.
struct AutogradModes {
  bool grad = true;
  bool inference = false;
  bool forward_grad = true;
  bool multithreading = true;

  bool operator==(const AutogradModes&) const = default;
  static AutogradModes Current();
  void Set() const;
};

struct ProgramTorchState {
  AutogradModes autograd;
  c10::ScalarType default_dtype = c10::ScalarType::Float;  // of the process
  bool autocast_cache = true;
  int autocast_nesting = 0;
  bool autocast[2] = {};  // on the CPU, on CUDA
  c10::ScalarType autocast_dtype[2] = {};

  bool operator==(const ProgramTorchState&) const = default;
  static ProgramTorchState Current();
  // Makes this state the current one, and forgets what autocast cached in another.
  void Set() const;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_PROGRAM_TORCH_STATE_H_
