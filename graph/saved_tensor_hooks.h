// PausedSavedTensorHooks: the program's hooks on saved tensors are not for fakes.
#ifndef FRAMEJIT_GRAPH_SAVED_TENSOR_HOOKS_H_
#define FRAMEJIT_GRAPH_SAVED_TENSOR_HOOKS_H_

#include <ATen/SavedTensorHooks.h>

namespace framejit {

// While this lives, in this thread.
class PausedSavedTensorHooks {
 public:
  PausedSavedTensorHooks() : were_paused_(at::SavedTensorDefaultHooks::set_tracing(true)) {}
  ~PausedSavedTensorHooks() { at::SavedTensorDefaultHooks::set_tracing(were_paused_); }
  PausedSavedTensorHooks(const PausedSavedTensorHooks&) = delete;
  PausedSavedTensorHooks& operator=(const PausedSavedTensorHooks&) = delete;

 private:
  const bool were_paused_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_SAVED_TENSOR_HOOKS_H_
