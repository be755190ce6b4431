// TrainingProgram: what all calls of one compiled training graph share: the partition, the backward graphs compiled so
// far, and the graph for torch's own autograd. Thread-safe.
#ifndef FRAMEJIT_BACKENDS_TRAINING_PROGRAM_H_
#define FRAMEJIT_BACKENDS_TRAINING_PROGRAM_H_

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "backends/training/training.h"

namespace framejit {

// What a backward that does not retain the graph leaves behind, by eager's nodes.
struct Consumption {
  std::vector<bool> ran;          // by node
  std::vector<int32_t> freed;     // of Partition::saved: what every backward that reads it would raise for
  bool all = false;               // no backward is left that would not raise
  std::vector<int32_t> arrivals;  // differentiable inputs, in the order in which their gradients arrive
  // Of Partition::saved: inputs and results that nodes which run hold, whether or not their gradients need them.
  std::vector<int32_t> checked;
};

// The strides of a backward's tangents, by differentiable output; empty where they are as recorded.
using TangentStrides = std::vector<std::vector<int64_t>>;

// One compiled backward.
struct BackwardVariant {
  BackwardGraph plan;  // its graph has been through the passes
  std::unique_ptr<CompiledGraph> graph;
};

class TrainingProgram {
 public:
  explicit TrainingProgram(TrainingRequest request);

  const Partition& partition() const { return request_.partition; }
  const JointGraph& joint() const { return request_.partition.joint; }
  const std::vector<c10::Device>& random() const { return request_.random; }
  // Whether a result depends on the differentiable input number `input`.
  bool HasGradient(size_t input) const { return has_gradient_[input]; }
  // The differentiable inputs that the differentiable output number `output` depends on.
  const std::vector<int32_t>& InputsOf(size_t output) const { return inputs_of_[output]; }
  // Of the call that runs now; may be null.
  StateCheck CheckOfThisCall() const { return request_.check_of_this_call ? request_.check_of_this_call() : nullptr; }

  // `wanted`: of the differentiable inputs. `by_operator`: every call goes through the dispatcher, for gradients that
  // are no plain tensors. `strides`: of the tangents; empty where all are as recorded. Compiles at the first use.
  const BackwardVariant& Backward(size_t section, std::vector<bool> wanted, bool by_operator, TangentStrides strides);
  // Of the tangent of an output, as it was recorded.
  const TensorMeta& TangentMeta(size_t output) const {
    return joint().graph.meta(joint().graph.inputs[joint().input_count + output]);
  }
  // Of a first backward of the outputs in `given` for the inputs in `wanted`.
  std::shared_ptr<const Consumption> Consume(OutputMask given, const std::vector<bool>& wanted);
  // Of one that ran `nodes` where `before` was left behind, which may be null.
  std::shared_ptr<const Consumption> Consume(const std::vector<int32_t>& nodes, const Consumption* before) const;
  // By input of the call: whether anything that a backward of the outputs in `given` reads depends on it.
  std::vector<bool> InputsReadBy(OutputMask given) const;
  // What runs under torch's own autograd. Requires the GIL. Raises c10::Error where it cannot be made.
  CompiledGraph& AutogradGraph();
  // The backward graphs compiled so far, for explain().
  std::string Describe();

 private:
  struct Key {
    size_t section;
    bool by_operator;
    std::vector<bool> wanted;
    TangentStrides strides;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.section, key.by_operator, key.wanted, key.strides);
    }
  };

  struct Use {
    OutputMask given;
    std::vector<bool> wanted;
    bool operator==(const Use&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Use& use) {
      return H::combine(std::move(h), use.given, use.wanted);
    }
  };

  std::unique_ptr<BackwardVariant> Compile(const Key& key) const;
  BackwardGraph Plan(const Key& key) const;
  BackwardGraph PlanInLayouts(const Key& key) const;

  TrainingRequest request_;
  std::vector<bool> has_gradient_;               // by differentiable input
  std::vector<std::vector<int32_t>> inputs_of_;  // by differentiable output
  std::mutex mutex_;
  absl::flat_hash_map<Key, std::unique_ptr<BackwardVariant>> backwards_;       // guarded by mutex_
  absl::flat_hash_map<Use, std::shared_ptr<const Consumption>> consumptions_;  // of first backwards; guarded by mutex_
  std::unique_ptr<CompiledGraph> autograd_graph_;                              // guarded by the GIL
};

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_PROGRAM_H_
