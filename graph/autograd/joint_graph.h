// JointGraph: what a call computes and what its backward computes, in one ATen graph. Data only; record_backward.h
// makes one, partition.h takes it apart.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_JOINT_GRAPH_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_JOINT_GRAPH_H_

#include <cstdint>
#include <vector>

#include "graph/autograd/engine_nodes.h"
#include "graph/autograd/output_views.h"
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

// A result that autograd of a call's caller may ask for the gradient of: by a hook, by retain_grad, by
// torch.autograd.grad. Where other results are made of it, their backward has to stop there.
struct CutPoint {
  int32_t output = -1;  // an index into JointGraph::differentiable_outputs, or
  int32_t result = -1;  // a result of the call that is a view (OutputViews)
};

// The backward of one output up to the cut points that it is made of, and to inputs past them.
struct CutSection {
  std::vector<int32_t> points;  // indices into JointGraph::cut_points; empty where it is made of none
  BackwardSection section;
  std::vector<int32_t> point_gradients;  // one per point: positions in Graph::outputs; -1 where there is none
  std::vector<int32_t> nodes;            // of EngineNodes: those that lead to the points
};

struct JointGraph {
  // Inputs: the call's, then one tangent per differentiable output. Outputs: the forward's, then the gradients.
  Graph graph;
  size_t input_count = 0;                       // the call's
  size_t output_count = 0;                      // the forward's
  OutputViews views;                            // how the call's results are made of them
  std::vector<int32_t> differentiable_inputs;   // positions in Graph::inputs: those that require grad
  std::vector<int32_t> differentiable_outputs;  // positions in Graph::outputs
  std::vector<uint32_t> output_versions;        // by output: its own count of writes; 0: of a look at an input
  // The backward of all differentiable outputs first; where there are several, then that of each one alone.
  std::vector<BackwardSection> sections;
  std::vector<CutPoint> cut_points;
  std::vector<CutSection> cuts;  // by differentiable output; empty where no result is made of another
  EngineNodes engine;            // of the eager function
  // Code of the program, which need not be linear, lies behind several outputs: it has to get all of theirs at once.
  bool shares_program = false;
  // A backward that the program ran has freed what those of all outputs need: each of them raises.
  bool freed = false;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_JOINT_GRAPH_H_
