// A compiled graph in which weights are constants (framejit.compile(freeze=True)): before each run it looks whether
// they are the tensors, with the memory and the versions, that it was compiled for, and is compiled anew where they are
// not. What writes past the version counter (`.data`, NumPy's view of the memory) it cannot see.
#ifndef FRAMEJIT_FRAME_EVAL_FROZEN_GRAPH_H_
#define FRAMEJIT_FRAME_EVAL_FROZEN_GRAPH_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/backend.h"

namespace framejit {

class FrozenGraph : public CompiledGraph {
 public:
  // `functional`: before the passes. `weights`: positions of inputs; those that the graph writes are left out, and, for
  // each compilation, those that have no version (tensors made under inference mode). `lowered` takes the graph that is
  // compiled first. `timings` may be null.
  static absl::StatusOr<std::unique_ptr<CompiledGraph>> Make(Graph functional, std::shared_ptr<Backend> backend,
                                                             std::vector<size_t> weights,
                                                             c10::ArrayRef<at::Tensor> inputs, Graph* lowered,
                                                             Timings* timings);

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override;
  void RunReleasing(std::vector<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override;
  std::string Describe() const override;

 private:
  // What a weight was; it is not kept alive, but its address is not given to another tensor.
  struct Stamp {
    size_t input;
    c10::weak_intrusive_ptr<c10::TensorImpl> tensor;
    const void* memory;
    uint32_t version;
    bool Matches(const at::Tensor& now) const;
  };
  struct Compiled {
    std::vector<Stamp> stamps;
    std::unique_ptr<CompiledGraph> graph;
    bool Matches(c10::ArrayRef<at::Tensor> inputs) const;
  };

  FrozenGraph(Graph functional, std::shared_ptr<Backend> backend, std::vector<size_t> weights)
      : functional_(std::move(functional)), backend_(std::move(backend)), weights_(std::move(weights)) {}
  absl::StatusOr<std::shared_ptr<Compiled>> Compile(c10::ArrayRef<at::Tensor> inputs, Graph* lowered,
                                                    Timings* timings) const;
  std::shared_ptr<Compiled> For(c10::ArrayRef<at::Tensor> inputs);

  const Graph functional_;
  const std::shared_ptr<Backend> backend_;
  std::vector<size_t> weights_;
  mutable std::mutex mutex_;  // of what follows
  std::shared_ptr<Compiled> compiled_;
  int64_t runs_ = 0;     // since the last compilation
  int short_lived_ = 0;  // compilations that were hardly used
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_FROZEN_GRAPH_H_
