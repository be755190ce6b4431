// A second run of a call under torch's own autograd, for a backward that is differentiated, has nodes in place of the
// call's. What comes to the results among them is to come to the call's own: to hooks on these, to who asks for their
// gradients, and to what a backward frees.
#ifndef FRAMEJIT_BACKENDS_TRAINING_RECONNECT_H_
#define FRAMEJIT_BACKENDS_TRAINING_RECONNECT_H_

#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>

#include <vector>

#include "absl/container/flat_hash_set.h"

namespace framejit {

struct ResultEdges {
  torch::autograd::Edge again, own;
};

// `gradients` are what autograd has recorded over the second run; `ends`: nodes that belong to neither. The numbers by
// which the engine prunes a graph (topological_nr) must not be higher at a result's own node than at the other.
void Reconnect(const std::vector<ResultEdges>& results, const torch::autograd::variable_list& gradients,
               absl::flat_hash_set<torch::autograd::Node*> ends);

// Whether code of the program lies behind tensors, up to `ends`.
bool LeadsToProgram(const torch::autograd::variable_list& results, absl::flat_hash_set<torch::autograd::Node*> ends);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_RECONNECT_H_
