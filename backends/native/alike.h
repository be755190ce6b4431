// Which nodes and which fused units of a graph are alike: what is found out about one holds for the other. Large
// graphs repeat themselves, and each thing is worked out once.
#ifndef FRAMEJIT_BACKENDS_NATIVE_ALIKE_H_
#define FRAMEJIT_BACKENDS_NATIVE_ALIKE_H_

#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "backends/native/facts.h"
#include "backends/native/fusion.h"

namespace framejit::native {

// Pairs of values, of two nodes or units, that stand in the same places: one to one, with equal metadata, and constants
// only beside themselves.
class ValuePairs {
 public:
  explicit ValuePairs(const GraphFacts& facts)
      : facts_(facts), to_(facts.graph.values.size(), kNoValue), from_(facts.graph.values.size(), kNoValue) {}
  // False where the two cannot be a pair.
  bool Add(ValueId a, ValueId b);
  // The partner of the first of a pair, which there is.
  ValueId PartnerOf(ValueId a) const { return to_[static_cast<size_t>(a)]; }
  void Clear();

 private:
  bool IsConstant(ValueId id) const {
    return facts_.producers[static_cast<size_t>(id)] < 0 && facts_.constants.contains(id);
  }

  const GraphFacts& facts_;
  std::vector<ValueId> to_, from_;  // by ValueId
  std::vector<std::pair<ValueId, ValueId>> pairs_;
};

// The same operator with equal constants, whose values pair. False for nodes with lists of values.
bool AreAlike(const Node& a, const Node& b, ValuePairs& values);

// Which nodes have a loop form, as trials of emitting it say: of nodes that are alike, the first is tried.
class Trials {
 public:
  explicit Trials(const GraphFacts& facts) : values_(facts) {}

  // `emits`: what the trial of a node says. What is emitted depends on the node and its values alone.
  template <typename Emits>
  bool Find(const Node& node, Emits emits) {
    Trial& last = last_[&node.op.schema()];
    values_.Clear();
    if (last.node == nullptr || !AreAlike(*last.node, node, values_)) last = {&node, emits(node)};
    return last.emits;
  }

 private:
  struct Trial {
    const Node* node = nullptr;
    bool emits = false;
  };
  ValuePairs values_;
  absl::flat_hash_map<const c10::FunctionSchema*, Trial> last_;
};

// Fused units of one fusion, each remembered where no unit before it is lowered to the same kernel over other memory.
class LoweredUnits {
 public:
  LoweredUnits(const GraphFacts& facts, const FusionResult& fusion, const std::vector<bool>& stored)
      : facts_(facts), fusion_(fusion), stored_(stored), values_(facts) {}

  // An earlier unit like this one; -1 where there is none.
  int32_t Find(int32_t unit);
  // After one was found: the value that this unit has where that one has `value`.
  ValueId PartnerOf(ValueId value) const { return values_.PartnerOf(value); }

 private:
  size_t HashOf(const Unit& unit) const;
  bool Pair(int32_t a, int32_t b);
  bool PairNodes(int32_t a, int32_t b);
  // Where lowering looks a value up: of a unit's own ones, what they are views of.
  bool PairSources(const Node& a, const Node& b);

  const GraphFacts& facts_;
  const FusionResult& fusion_;
  const std::vector<bool>& stored_;
  ValuePairs values_;
  absl::flat_hash_map<size_t, std::vector<int32_t>> seen_;  // by hash
};

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_ALIKE_H_
