// GeneratorState: where the default CPU generator is, so that what ran can be taken back and draws the same numbers
// again.
#ifndef FRAMEJIT_FRAME_EVAL_GENERATOR_STATE_H_
#define FRAMEJIT_FRAME_EVAL_GENERATOR_STATE_H_

#include <ATen/CPUGeneratorImpl.h>

#include <mutex>

namespace framejit {

class GeneratorState {
 public:
  GeneratorState() : generator_(at::detail::getDefaultCPUGenerator()) {
    std::lock_guard<std::mutex> lock(generator_.mutex());
    state_ = generator_.get_state();
  }
  void Restore() {
    std::lock_guard<std::mutex> lock(generator_.mutex());
    generator_.set_state(state_);
  }
  bool operator==(const GeneratorState& other) const { return state_.equal(other.state_); }

 private:
  at::Generator generator_;
  at::Tensor state_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GENERATOR_STATE_H_
