// Changes the memory layout of values inside a graph. What depends on a changed value lies otherwise than recorded too,
// as its operator would have it, or gets a copy in the recorded layout. What the caller gets is never changed.
#ifndef FRAMEJIT_GRAPH_PASSES_RELAYOUT_H_
#define FRAMEJIT_GRAPH_PASSES_RELAYOUT_H_

#include <c10/core/MemoryFormat.h>

#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "graph/graph.h"
#include "graph/passes/analysis.h"

namespace framejit {

// A pass over the nodes in order: each is either given other results by Change, or handed to Follow, and then kept.
class Relayout {
 public:
  explicit Relayout(Graph& graph)
      : graph_(graph), facts_(graph), recorded_(graph.values), changed_(graph.values.size()) {}

  // The caller can see how the value lies.
  bool IsHeld(ValueId id) const { return facts_.Escapes(id) || facts_.FeedsMutation(id); }
  bool IsChanged(ValueId id) const { return static_cast<size_t>(id) < changed_.size() && changed_[id]; }

  // From here on the value, which is not held, lies like this.
  void Change(ValueId id, c10::DimVector strides);
  // A copy of the value in that layout, made in front of the next node that is kept.
  ValueId Copy(ValueId id, at::MemoryFormat format);
  // A node whose operands may lie otherwise than recorded: its results do as well, or the operands are copied to where
  // they were. False where that cannot be done: the graph has to be as it was then.
  bool Follow(Node& node);
  // The operands that lie otherwise are copied to where they were, which has to be a contiguous layout.
  bool Restore(Node& node);
  void Keep(Node node) { made_.push_back(std::move(node)); }
  // The nodes kept, and the copies among them.
  std::vector<Node> Take() { return std::move(made_); }

 private:
  bool Relay(const Node& node);

  Graph& graph_;
  const MemoryFacts facts_;
  const std::vector<TensorMeta> recorded_;  // of the values that there were
  std::vector<bool> changed_;               // by value: it lies otherwise than recorded
  std::vector<Node> made_;
  absl::flat_hash_map<std::pair<ValueId, at::MemoryFormat>, ValueId> copies_;
};

// The strides of a dense tensor of four dimensions whose second one is innermost.
c10::DimVector ChannelsLastStrides(c10::IntArrayRef sizes);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_RELAYOUT_H_
