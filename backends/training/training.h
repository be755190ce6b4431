// Training: a forward graph that runs with the call, and a node of torch's autograd that runs compiled backward graphs.
// Owns how the two meet autograd (saved variables, versions, gradients that are absent); what they compute is decided
// in graph/autograd, and how, by the backend.
#ifndef FRAMEJIT_BACKENDS_TRAINING_TRAINING_H_
#define FRAMEJIT_BACKENDS_TRAINING_TRAINING_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/backend.h"
#include "graph/autograd/partition.h"

namespace framejit {

// Makes the graph that torch's own autograd differentiates; it runs with the GIL. What the function holds may die in
// any thread, with or without the GIL.
using AutogradGraphMaker = std::function<absl::StatusOr<std::unique_ptr<CompiledGraph>>()>;

// What eager would read once more in the backward: the call's inputs as they are by then, given those that they were.
// Raises where something else is not what it was in the call's forward.
using StateCheck = std::function<std::vector<at::Tensor>(c10::ArrayRef<at::Tensor> inputs)>;

struct TrainingRequest {
  std::string name;     // of the function, for the log
  Partition partition;  // its forward has been through the passes
  std::shared_ptr<Backend> backend;
  std::vector<c10::Device> random = {};  // the forward draws from the default generators of these
  AutogradGraphMaker make_autograd_graph;
  std::function<StateCheck()> check_of_this_call;  // null where there is nothing to check
};

// Compiles the forward; a backward is compiled when it is first run. A backward that is itself differentiated runs the
// autograd graph. Run raises, before anything has happened, where only eager does what the program can see: under
// anomaly detection and default saved-tensor hooks.
absl::StatusOr<std::unique_ptr<CompiledGraph>> CompileTraining(TrainingRequest request);

// A result that the program has written has a version that says so, however the graph made it.
void RaiseVersion(const at::Tensor& result, uint32_t version);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_TRAINING_H_
