// GeneratorState: where a generator is, torch's default one on the CPU or another, so that what ran can be taken back
// and draws the same numbers again.
#ifndef FRAMEJIT_FRAME_EVAL_GENERATOR_STATE_H_
#define FRAMEJIT_FRAME_EVAL_GENERATOR_STATE_H_

#include <ATen/CPUGeneratorImpl.h>

#include <mutex>

namespace framejit {

class GeneratorState {
 public:
  GeneratorState() : GeneratorState(at::detail::getDefaultCPUGenerator()) {}
  explicit GeneratorState(at::Generator generator) : generator_(std::move(generator)) {
    std::lock_guard<std::mutex> lock(generator_.mutex());
    state_ = generator_.get_state();
  }
  void Restore() { Restore(generator_); }
  // Puts another generator where this one was.
  void Restore(at::Generator& other) const {
    std::lock_guard<std::mutex> lock(other.mutex());
    other.set_state(state_);
  }
  bool operator==(const GeneratorState& other) const { return state_.equal(other.state_); }

 private:
  at::Generator generator_;
  at::Tensor state_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GENERATOR_STATE_H_
