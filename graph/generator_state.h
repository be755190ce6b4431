// Where generators of random numbers are, so that what ran can be taken back and draws the same numbers again.
#ifndef FRAMEJIT_GRAPH_GENERATOR_STATE_H_
#define FRAMEJIT_GRAPH_GENERATOR_STATE_H_

#include <ATen/Context.h>
#include <ATen/core/Generator.h>

#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace framejit {

// That of one generator.
class GeneratorState {
 public:
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

// Those of torch's default generators of some devices.
class DefaultGeneratorStates {
 public:
  // Empty where one of them does not say: a GPU's, while the program captures a CUDA graph.
  static std::optional<DefaultGeneratorStates> Take(const std::vector<c10::Device>& devices) {
    try {
      return DefaultGeneratorStates(devices);
    } catch (const c10::Error&) {
      return std::nullopt;
    }
  }
  void Restore() {
    for (GeneratorState& state : states_) state.Restore();
  }
  bool operator==(const DefaultGeneratorStates& other) const { return states_ == other.states_; }

 private:
  explicit DefaultGeneratorStates(const std::vector<c10::Device>& devices) {
    for (const c10::Device& device : devices) states_.emplace_back(at::globalContext().defaultGenerator(device));
  }

  std::vector<GeneratorState> states_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_GENERATOR_STATE_H_
