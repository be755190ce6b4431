// Taking a joint graph apart: the forward that runs with the call, what it saves, and the backward graphs that run
// later. Knows nothing of torch's autograd nodes (backends/training) and of how graphs are compiled.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_PARTITION_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_PARTITION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "graph/autograd/joint_graph.h"
#include "graph/graph.h"

namespace framejit {

// A tensor that the forward leaves for the backward.
struct SavedValue {
  enum class Kind : uint8_t {
    kInput,         // the call's input number `index`
    kOutput,        // the forward's output number `index`
    kIntermediate,  // output number `index` of the forward graph, behind JointGraph::output_count
  };
  Kind kind = Kind::kIntermediate;
  // kNoValue: an input or an output that no backward reads. Eager's nodes hold it, for its sizes alone, and raise where
  // it was written.
  ValueId value = kNoValue;
  int32_t index = -1;
  // kIntermediate: an output of the forward in whose memory it lies, so that a write to the one is a write to the
  // other; -1: none.
  int32_t shares_output = -1;
  // kInput: only checkpoints read it. In eager mode these read it anew, with whatever is in it by then.
  bool read_anew = false;
  OutputMask used_by = 0;      // by the backward of which differentiable outputs, each alone
  OutputMask cut_by = 0;       // by the backward of which outputs up to the cut points that they are made of
  std::vector<bool> used_for;  // the gradients of which differentiable inputs
};

// Random numbers that a checkpoint draws, without others in between. The backward draws them again: it sets the
// generator to the state that it had in the forward, and back.
struct Draws {
  ValueId state = kNoValue;    // what framejit::random_state gave in front of them
  std::vector<int32_t> nodes;  // of the joint graph
};

struct BackwardGraph {
  Graph graph;                    // inputs: saved values, then tangents
  std::vector<int32_t> saved;     // the first inputs: indices into Partition::saved
  std::vector<int32_t> tangents;  // the other inputs: indices into JointGraph::differentiable_outputs
  // One per JointGraph::differentiable_inputs: the position of its gradient in Graph::outputs; -1 where there is none.
  std::vector<int32_t> gradients;
  std::vector<int32_t> point_gradients;  // of a CutSection: one per point
  // By position in Graph::outputs: it shares elements with an earlier gradient, or memory with a saved tensor, so that
  // the caller must get a copy.
  std::vector<bool> copied;
};

struct Partition {
  JointGraph joint;  // functional
  Graph forward;     // outputs: the joint graph's, then the saved intermediates
  std::vector<SavedValue> saved;
  bool holds_unread = false;  // some of `saved` are read by no backward
  // Inputs that the forward writes and no gradient depends on; positions, ascending.
  std::vector<int32_t> written_inputs;
  std::vector<bool> depends_on_tangent;                              // by value of the joint graph
  std::vector<bool> is_saved;                                        // by value of the joint graph
  absl::flat_hash_map<int32_t, std::shared_ptr<const Draws>> draws;  // by node of the joint graph
};

// `joint.graph` is functional. Unimplemented says why torch's own autograd has to differentiate the call.
absl::StatusOr<Partition> MakePartition(JointGraph joint);

// The backward of section number `section`, for those differentiable inputs that `wanted` says. Behind
// JointGraph::sections come JointGraph::cuts, whose points always get their gradients.
BackwardGraph ExtractBackward(const Partition& partition, size_t section, const std::vector<bool>& wanted);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_PARTITION_H_
