// Which gradients of eager's backward notice a write to an input or an output of the call behind it, since a node that
// runs for them has saved it: a compiled backward may read the tensor for these gradients alone.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_WRITE_NOTICES_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_WRITE_NOTICES_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "graph/autograd/joint_graph.h"

namespace framejit {

// A set of gradients: bit g % 64 of word g / 64 is output number JointGraph::output_count + g of the joint graph.
using GradientSet = std::vector<uint64_t>;

class WriteNotices {
 public:
  explicit WriteNotices(const JointGraph& joint);

  // By value: the gradients that the backward reads it for. `made_again` says which values of the forward it computes
  // of others.
  template <typename InBackward, typename MadeAgain>
  std::vector<GradientSet> Readers(InBackward in_backward, MadeAgain made_again) const {
    const Graph& graph = joint_.graph;
    std::vector<GradientSet> readers(graph.values.size(), GradientSet(words_, 0));
    for (size_t g = 0; g < gradients_.size(); ++g)
      readers[static_cast<size_t>(graph.outputs[joint_.output_count + g])][g / 64] |= uint64_t{1} << (g % 64);
    for (size_t n = graph.nodes.size(); n-- > 0;) {
      for (ValueId id : graph.nodes[n].outputs) {
        if (id == kNoValue || !(in_backward(n) || made_again(id))) continue;
        ForEachOperandValue(graph.nodes[n], [&](const ValueId& operand) { Add(readers[operand], readers[id]); });
      }
    }
    return readers;
  }

  // Whether all of `gradients` notice a write to the call's input, or to its output, at `position`.
  bool AllNotice(const GradientSet& gradients, bool is_input, int32_t position);

  static void Add(GradientSet& to, const GradientSet& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] |= from[i];
  }

 private:
  const JointGraph& joint_;
  std::vector<std::pair<OutputMask, int32_t>> gradients_;  // of which outputs, and by which differentiable input, or -1
  size_t words_;
  std::vector<OutputMask> sources_;              // by node of EngineNodes
  std::vector<std::vector<uint64_t>> purposes_;  // likewise
  absl::flat_hash_map<std::pair<bool, int32_t>, GradientSet> noticed_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_WRITE_NOTICES_H_
