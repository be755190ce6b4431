// TorchState: the thread-local and process-wide torch settings that decide what a program computes, as one value that
// is cheap to take and to compare. Owns no policy: a recording holds only under an equal state.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_TORCH_STATE_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_TORCH_STATE_H_

#include <cstdint>
#include <string>

namespace framejit {

struct TorchState {
  uint64_t included_keys = 0;  // dispatch keys of this thread: autocast, functorch, Python modes, inference
  uint64_t excluded_keys = 0;
  uint32_t autograd_flags = 0;  // grad, inference and forward-grad mode
  uint32_t process_flags = 0;   // determinism, attention kernels, oneDNN
  uint32_t function_modes = 0;  // torch function mode stack: length and disabled state
  uint32_t dispatch_modes = 0;  // torch dispatch mode stack: length
  int8_t default_dtype = 0;
  int8_t autocast_cpu_dtype = 0;
  int8_t autocast_cuda_dtype = 0;
  bool autocast_cache = false;
  uint64_t default_device = 0;  // what the torch function modes are (torch.device contexts, set_default_device)

  static TorchState Capture();
  bool operator==(const TorchState&) const = default;
  // "grad_mode is False, expected True; ...": what differs in `actual`.
  std::string Difference(const TorchState& actual) const;
};

// Whether torch function or dispatch modes are active that are the program's own, or torch.jit.trace: they see each
// operator, ours as well.
bool UserModesActive();

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_TORCH_STATE_H_
