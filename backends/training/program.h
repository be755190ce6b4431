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

// One compiled backward.
struct BackwardVariant {
  BackwardGraph plan;  // its graph has been through the passes
  std::unique_ptr<CompiledGraph> graph;
};

class TrainingProgram {
 public:
  explicit TrainingProgram(TrainingRequest request) : request_(std::move(request)) {}

  const Partition& partition() const { return request_.partition; }
  const JointGraph& joint() const { return request_.partition.joint; }
  bool random() const { return request_.random; }

  // `wanted`: of the differentiable inputs. `by_operator`: every call goes through the dispatcher, for gradients that
  // are no plain tensors. Compiles at the first use.
  const BackwardVariant& Backward(size_t section, std::vector<bool> wanted, bool by_operator);
  // What runs under torch's own autograd. Requires the GIL. Raises c10::Error where it cannot be made.
  CompiledGraph& AutogradGraph();
  // The backward graphs compiled so far, for explain().
  std::string Describe();

 private:
  struct Key {
    size_t section;
    bool by_operator;
    std::vector<bool> wanted;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.section, key.by_operator, key.wanted);
    }
  };

  std::unique_ptr<BackwardVariant> Compile(const Key& key) const;

  TrainingRequest request_;
  std::mutex mutex_;
  absl::flat_hash_map<Key, std::unique_ptr<BackwardVariant>> backwards_;  // guarded by mutex_
  std::unique_ptr<CompiledGraph> autograd_graph_;                         // guarded by the GIL
};

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_PROGRAM_H_
