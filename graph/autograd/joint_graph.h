// JointGraph: what a call computes and what its backward computes, in one ATen graph. Data only; record_backward.h
// makes one, partition.h takes it apart.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_JOINT_GRAPH_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_JOINT_GRAPH_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "graph/autograd/engine_nodes.h"
#include "graph/graph.h"

namespace framejit {

// Node::torch_call of what the autograd engine called.
inline constexpr int32_t kBackwardCall = -2;

// The backward of some of the outputs, as the autograd engine runs it when the others get no gradient. It computes
// other things than the backward of all outputs with zeros would: nothing at all where no gradient flows.
struct BackwardSection {
  OutputMask tangents = 0;
  // One per JointGraph::differentiable_inputs: the position of its gradient in Graph::outputs; -1 where there is none.
  std::vector<int32_t> gradients;
};

// An input of a recording that the program has not replaced by another tensor.
struct LiftedInput {
  size_t position;  // in Graph::inputs
  at::Tensor fake;
};

struct JointGraph {
  // Inputs: the call's, then one tangent per differentiable output. Outputs: the call's, then the gradients.
  Graph graph;
  size_t input_count = 0;                       // the call's
  size_t output_count = 0;                      // the call's
  std::vector<int32_t> differentiable_inputs;   // positions in Graph::inputs: those that require grad
  std::vector<int32_t> differentiable_outputs;  // positions in Graph::outputs
  // The backward of all differentiable outputs first; where there are several, then that of each one alone.
  std::vector<BackwardSection> sections;
  EngineNodes engine;  // of the eager function
  // A backward that the program ran has freed what those of all outputs need: each of them raises.
  bool freed = false;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_JOINT_GRAPH_H_
