// What the functions of a call's checkpoints read from outside. Eager calls them once more in the backward; a compiled
// backward computes what they computed in the forward, which is the same as long as these reads give the same.
#ifndef FRAMEJIT_FRAME_EVAL_CHECKPOINT_READS_H_
#define FRAMEJIT_FRAME_EVAL_CHECKPOINT_READS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/training/training.h"
#include "frame_eval/guards/guard_program.h"

namespace framejit {

class CheckpointReads {
 public:
  // `inputs`: the sources of the call's inputs. `saved`: those that the backward reads and eager would not read anew.
  static absl::StatusOr<std::shared_ptr<CheckpointReads>> Make(const SourceTable& sources, const GuardList& reads,
                                                               const std::vector<SourceId>& inputs,
                                                               std::vector<size_t> saved, const CallState& state,
                                                               std::vector<std::string> argument_names);

  // The call that is about to run its graph. Requires the GIL, as all of this.
  void Enter(const CallState& state) { current_ = &state; }
  // For the call that was entered: holds its function and arguments, as the checkpoints of eager do. What it raises is
  // torch's CheckpointError, which eager raises where the function computes something else the second time.
  static StateCheck CheckOfThisCall(const std::shared_ptr<CheckpointReads>& reads);

  int Traverse(visitproc visit, void* arg) const { return guards_->Traverse(visit, arg); }

 private:
  std::vector<at::Tensor> Fetch(c10::ArrayRef<at::Tensor> inputs) const;

  explicit CheckpointReads(std::unique_ptr<GuardProgram> guards) : guards_(std::move(guards)) {}

  std::unique_ptr<GuardProgram> guards_;
  std::vector<size_t> tensors_;  // positions of the inputs that are fetched, in order
  std::vector<size_t> saved_;    // positions
  const CallState* current_ = nullptr;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_CHECKPOINT_READS_H_
