// BackwardNode: the node of torch's autograd that stands for one call of a compiled training graph.
#ifndef FRAMEJIT_BACKENDS_TRAINING_BACKWARD_NODE_H_
#define FRAMEJIT_BACKENDS_TRAINING_BACKWARD_NODE_H_

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <memory>
#include <string>
#include <vector>

#include "backends/training/program.h"

namespace framejit {

class BackwardNode : public torch::autograd::Node {
 public:
  // `inputs` are the call's. `generator_state` is what the default generator was in before a forward that draws random
  // numbers, else undefined.
  BackwardNode(std::shared_ptr<TrainingProgram> program, c10::ArrayRef<at::Tensor> inputs, at::Tensor generator_state);

  // Takes what the backward needs from the results of the forward graph, once the call's outputs have their history.
  void Save(const std::vector<at::Tensor>& results);

  std::string name() const override { return "FramejitBackward"; }
  void release_variables() override;

 protected:
  torch::autograd::variable_list apply(torch::autograd::variable_list&& tangents) override;

 private:
  using Variables = torch::autograd::variable_list;

  Variables RunSection(size_t section, Variables& tangents, bool release);
  std::vector<at::Tensor> SectionInputs(const BackwardVariant& variant, const Variables& tangents, bool by_operator,
                                        std::vector<const void*>* converted);
  std::vector<bool> WantedGradients();
  void CheckNotFreed(OutputMask given) const;
  void Free(OutputMask given);
  Variables Differentiable(const Variables& tangents, OutputMask given);
  Variables AutogradInputs() const;

  const std::shared_ptr<TrainingProgram> program_;
  std::vector<torch::autograd::SavedVariable> saved_;
  Variables inputs_;  // the call's, for a backward that is differentiated
  std::vector<uint32_t> versions_;
  at::Tensor generator_state_;
  OutputMask last_given_ = 0;
  OutputMask freed_ = 0;
};

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_BACKWARD_NODE_H_
