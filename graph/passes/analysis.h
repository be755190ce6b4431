// What passes ask about nodes and memory: which nodes have effects, which storages the caller will hold, which are
// written. Everything unknown (a storage id of -1) counts as held by the caller.
#ifndef FRAMEJIT_GRAPH_PASSES_ANALYSIS_H_
#define FRAMEJIT_GRAPH_PASSES_ANALYSIS_H_

#include <vector>

#include "absl/container/flat_hash_set.h"
#include "graph/graph.h"

namespace framejit {

// Must run once, in its place: draws random numbers, writes memory (declared or, as batch norm's running statistics,
// not), or returns nothing.
bool HasEffect(const Node& node);
// May raise because of the data it reads (an index out of range, a singular matrix): eager would raise, so it stays
// even where nobody uses its result.
bool MayRaiseOnData(const Node& node);
// The storages that operators from `first_node` on declare to write.
absl::flat_hash_set<int32_t> WrittenStorages(const Graph& graph, size_t first_node = 0);
// Leaves the content of its result undefined (aten::empty and its kin).
bool IsUninitialized(const Node& node);

class MemoryFacts {
 public:
  explicit MemoryFacts(const Graph& graph);

  // A graph output shares memory with the value.
  bool Escapes(ValueId id) const { return Holds(escapes_, id, true); }
  // The value is itself a graph output: a tensor object that the caller gets.
  bool IsOutput(ValueId id) const { return is_output_[id]; }
  // The value's memory is the source of an input mutation.
  bool FeedsMutation(ValueId id) const { return Holds(feeds_mutation_, id, true); }
  // An operator of the graph writes the value's memory.
  bool IsWritten(ValueId id) const { return unknown_written_ || Holds(written_, id, any_written_); }
  // A written value among the operands or the results: the node's place in the order matters.
  bool TouchesWritten(const Node& node) const;

  // Two storages became one (`from` is no longer used).
  void MergeStorage(int32_t from, int32_t into);
  int32_t StorageOf(ValueId id) const;

  // Gives merged storages their new ids.
  void Apply(Graph& graph) const;

 private:
  bool Holds(const std::vector<bool>& set, ValueId id, bool if_unknown) const {
    int32_t storage = StorageOf(id);
    return storage < 0 ? if_unknown : set[storage];
  }
  void AddWrites(const Node& node);

  const Graph& graph_;
  std::vector<bool> escapes_, feeds_mutation_, written_;  // by storage
  std::vector<int32_t> merged_;                           // by storage: what it became
  std::vector<bool> is_output_;                           // by value
  bool any_written_ = false;
  bool unknown_written_ = false;
};

// Equal in everything but the storage id.
bool SameMeta(const TensorMeta& a, const TensorMeta& b);

// The nodes that a pass keeps, where they are: while it walks them in order, each moves down past those that were
// dropped, which costs nothing as long as there are none. The rest is cut off when this goes.
class KeptNodes {
 public:
  explicit KeptNodes(std::vector<Node>& nodes) : nodes_(nodes) {}
  ~KeptNodes() { nodes_.erase(nodes_.begin() + static_cast<std::ptrdiff_t>(size_), nodes_.end()); }
  KeptNodes(const KeptNodes&) = delete;
  KeptNodes& operator=(const KeptNodes&) = delete;

  // `node`: the one that the walk has come to. A reference to it is one to what was kept no more.
  void Keep(Node& node) {
    Node& place = nodes_[size_++];
    if (&place != &node) place = std::move(node);
  }
  size_t size() const { return size_; }
  const Node& operator[](size_t i) const { return nodes_[i]; }

 private:
  std::vector<Node>& nodes_;
  size_t size_ = 0;
};

// Replaces uses of values, while a pass walks the nodes in order.
class ValueMap {
 public:
  explicit ValueMap(const Graph& graph) : to_(graph.values.size()) {
    for (size_t i = 0; i < to_.size(); ++i) to_[i] = static_cast<ValueId>(i);
  }
  void Replace(ValueId from, ValueId to) { to_[from] = Resolve(to); }
  // Values added after the map was made stand for themselves.
  ValueId Resolve(ValueId id) const { return static_cast<size_t>(id) < to_.size() ? to_[id] : id; }
  void ApplyTo(Node& node) const {
    ForEachOperandValue(node, [this](ValueId& id) { id = Resolve(id); });
  }
  void ApplyToResults(Graph& graph) const;

 private:
  std::vector<ValueId> to_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_ANALYSIS_H_
